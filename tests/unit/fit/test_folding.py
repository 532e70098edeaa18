"""Folding in the fit: readouts are fitted on what the folded producers really put out."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch

from optimum_grail.allocations.uniform import Uniform
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.compensators.grail import Grail
from optimum_grail.compensators.grail_plus import GrailPlus
from optimum_grail.compensators.none import NoCompensation
from optimum_grail.core.contracts import Selector
from optimum_grail.core.problem import GroupProblem, Selection
from optimum_grail.core.reduction import Reduction
from optimum_grail.data.batches import make_batches
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Silent


@dataclass(frozen=True)
class Pairs(Selector):
    """Fold unit ``u`` with unit ``u + keep``."""

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        return Selection(Reduction.fold(torch.arange(problem.units) % keep))


DRAW = torch.Generator().manual_seed(0)
TEXTS = make_batches([{"input_ids": torch.randint(3, 90, (24,), generator=DRAW)} for _ in range(40)], batch_size=8)
IMAGES = make_batches([{"pixel_values": torch.randn(3, 16, 16, generator=DRAW)} for _ in range(40)], batch_size=8)


def folded(model, compensator, batches, only=None):
    """The model with every group (or the groups ``only``) folded to half."""
    model = copy.deepcopy(model)
    layout = resolve(model)
    widths = {g.name: g.units // 2 if only is None or g.name in only else g.units for g in layout.groups}
    methods = Methods(Pairs(), compensator, Uniform())
    plan = FitRun(model, layout, methods, widths, batches, 0, Silent()).run_()
    return model, plan


def block_error(dense, model, path: str, batches) -> float:
    """Squared distance of a block's output to the dense one's, over all batches; the blocks before are whole."""
    outputs = []
    for item in (dense, model):
        seen: list[torch.Tensor] = []
        handle = item.get_submodule(path).register_forward_hook(
            lambda module, args, output, seen=seen: seen.append(output[0] if isinstance(output, tuple) else output)
        )
        with torch.no_grad():
            for batch in batches:
                item(**batch.inputs)
        handle.remove()
        outputs.append(torch.cat(seen))
    return float((outputs[0] - outputs[1]).square().sum())


@pytest.mark.parametrize(
    ("build", "batches"), [pytest.param(tiny_llama, TEXTS, id="llama"), pytest.param(tiny_basic, IMAGES, id="resnet")]
)
def test_a_refit_after_folding_beats_summed_columns_and_the_least_squares_weight_is_exact(build, batches) -> None:
    dense = build().eval()
    group = resolve(dense).groups[0] if build is tiny_basic else resolve(dense).group("model.layers.0.mlp")
    errors = {}
    for name, compensator in (
        ("none", NoCompensation()),
        ("grail", Grail(ridge=1e-9)),
        ("plus", GrailPlus(ridge=1e-9, tau=1.0)),
    ):
        model, plan = folded(dense, compensator, batches, {group.name})
        assert plan[group.name].reduction.slots == group.units // 2 and not plan[group.name].reduction.is_selection
        errors[name] = block_error(dense, model, group.block, batches)
    assert errors["grail"] < 0.9 * errors["none"] and errors["plus"] <= errors["grail"] * 1.001


def test_the_mlp_readout_is_the_least_squares_solution_on_the_folded_features() -> None:
    dense = tiny_llama().eval()
    name = "model.layers.0.mlp"
    model, _ = folded(dense, Grail(ridge=1e-10), TEXTS, {name})
    rows: dict[str, list[torch.Tensor]] = {"z": [], "y": []}
    model.model.layers[0].mlp.down_proj.register_forward_pre_hook(
        lambda m, args: rows["z"].append(args[0].flatten(0, 1))
    )
    dense.model.layers[0].mlp.register_forward_hook(lambda module, args, output: rows["y"].append(output.flatten(0, 1)))
    with torch.no_grad():
        for batch in TEXTS:
            model(**batch.inputs)
            dense(**batch.inputs)
    z, y = (torch.cat(rows[key]).double() for key in ("z", "y"))
    expected = torch.linalg.lstsq(z, y).solution.T
    found = model.model.layers[0].mlp.down_proj.weight.double()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_drift_is_told_apart_from_what_folding_costs() -> None:
    """With the dense stream's target and an undrifted student, the drift strength is without effect."""
    dense = tiny_llama().eval()
    name = "model.layers.0.mlp"
    weights = [
        folded(dense, GrailPlus(ridge=1e-6, tau=tau), TEXTS, {name})[0].model.layers[0].mlp.down_proj.weight
        for tau in (0.0, 1.0)
    ]
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def test_later_blocks_fold_behind_folded_ones() -> None:
    dense = tiny_llama().eval()
    outputs = {}
    with torch.no_grad():
        for name, compensator in (("none", NoCompensation()), ("plus", GrailPlus())):
            model, plan = folded(dense, compensator, TEXTS)
            assert len(plan) == 6
            outputs[name] = float((model(**TEXTS[0].inputs).logits - dense(**TEXTS[0].inputs).logits).square().mean())
    assert outputs["plus"] < outputs["none"]
