"""What reads the blocks' output is refitted last: nearer to the dense outputs, or left alone where data is scarce."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.allocations.balanced import Balanced
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_basic, tiny_bottleneck
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.checkpoints.plan_file import load_reductions, save_plan
from optimum_grail.compensators.grail import Grail
from optimum_grail.compensators.grail_plus import GrailPlus
from optimum_grail.core.plan import Plan
from optimum_grail.data.batches import Batch, make_batches
from optimum_grail.fit import fit as fit_module
from optimum_grail.fit.classifier import classifiers_of
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.fit.rehearsal import Rehearsal
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Silent
from optimum_grail.selectors.obs import Obs
from optimum_grail.survey.survey import Survey

PLUS = Methods(Obs(), GrailPlus(), Balanced())
SAMPLES = 80
PATHS = {
    tiny_vit: ["classifier"],
    tiny_basic: ["classifier.1"],
    tiny_bottleneck: ["classifier.1"],
    tiny_clip: ["text_projection", "visual_projection"],
    tiny_llama: [],
}


def batches_of(model: nn.Module, count: int = SAMPLES, batch_size: int = 8, seed: int = 1) -> tuple[Batch, ...]:
    draw = torch.Generator().manual_seed(seed)
    side = 16 if "resnet" not in model.config.model_type else 32
    samples = [{"pixel_values": torch.randn(3, side, side, generator=draw)} for _ in range(count)]
    if "clip" in model.config.model_type:
        for sample in samples:
            sample["input_ids"] = torch.randint(3, 90, (14,), generator=draw)
    return make_batches(samples, batch_size=batch_size)


def compress_(model: nn.Module, batches: tuple[Batch, ...], methods: Methods = PLUS) -> Plan:
    layout = resolve(model)
    widths = {group.name: max(group.units // 2, 1) for group in layout.groups}
    return FitRun(model, layout, methods, widths, batches, 0, Silent()).run_()


@torch.no_grad()
def outputs_of(model: nn.Module, batches: tuple[Batch, ...]) -> Tensor:
    found = [model(**batch.inputs) for batch in batches]
    return torch.cat([item["logits"] if "logits" in item else item["image_embeds"] for item in found])


@pytest.mark.parametrize("build", PATHS, ids=lambda build: build.__name__)
def test_the_maps_name_what_reads_the_last_hidden_state(build: Callable[[], nn.Module]) -> None:
    model = build()
    assert [group.name for group in classifiers_of(model, resolve(model))] == PATHS[build]


@pytest.mark.parametrize("build", [tiny_vit, tiny_basic, tiny_bottleneck, tiny_clip], ids=lambda build: build.__name__)
def test_unseen_outputs_come_nearer(build: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    unseen = batches_of(model, seed=2)
    wanted, gaps = outputs_of(model, unseen), []
    for refit in (lambda *arguments: [], fit_module.refit_classifiers_):
        monkeypatch.setattr(fit_module, "refit_classifiers_", refit)
        smaller = copy.deepcopy(model)
        plan = compress_(smaller, batches_of(model))
        gaps.append(float((outputs_of(smaller, unseen) - wanted).square().mean()))
    assert gaps[1] < gaps[0]
    found = [item for item in plan.values() if item.group.kind == "classifier"]
    assert [item.group.name for item in found] == PATHS[build]
    for item in found:
        assert item.reduction.slots == item.group.units and item.readout is None
        assert item.diagnostics["held_error"] <= item.diagnostics["plain_held_error"]


def test_a_saved_plan_tells_of_it_but_of_no_units(tmp_path: Path) -> None:
    model = tiny_vit()
    names = {group.name for group in resolve(model).groups}
    save_plan(compress_(model, batches_of(model)), tmp_path)
    assert set(load_reductions(tmp_path)) == names, "who carries an adapter over looks for these in the dense model"
    assert "classifier" in json.loads((tmp_path / "grail_plan.json").read_text(encoding="utf-8"))["groups"]


@pytest.mark.parametrize(("count", "methods"), [(30, PLUS), (SAMPLES, Methods(Obs(), Grail(), Balanced()))])
def test_left_alone_where_rows_are_few_or_the_method_does_not_refit(count: int, methods: Methods) -> None:
    model = tiny_vit()
    before = copy.deepcopy(model.classifier.state_dict())
    plan = compress_(model, batches_of(model, count), methods)
    assert "classifier" not in plan
    assert all(torch.equal(before[name], value) for name, value in model.classifier.state_dict().items())


def test_a_tied_layer_is_left_alone() -> None:
    model = tiny_vit()
    model.twin = nn.Linear(32, 5)
    model.twin.weight = model.classifier.weight
    assert classifiers_of(model, resolve(model)) == []


@pytest.mark.parametrize("build", [tiny_vit, tiny_basic, tiny_clip], ids=lambda build: build.__name__)
def test_neither_batch_size_nor_order_matters(build: Callable[[], nn.Module]) -> None:
    model = build()
    first, *others = (copy.deepcopy(model) for _ in range(3))
    compress_(first, batches_of(model))
    compress_(others[0], batches_of(model, batch_size=1))
    compress_(others[1], tuple(reversed(batches_of(model))))
    for path in PATHS[build]:
        weight = first.get_submodule(path).weight
        assert not torch.equal(weight, model.get_submodule(path).weight)
        for other in others:
            torch.testing.assert_close(other.get_submodule(path).weight, weight, rtol=1e-3, atol=1e-4)


def test_a_rehearsal_refits_a_copy() -> None:
    model = tiny_basic()
    before = copy.deepcopy(model.state_dict())
    layout, batches = resolve(model), batches_of(model)
    curves = Survey(model, layout, batches, Silent()).run().curves
    kept = {group.name: group.units // 2 for group in layout.groups}
    rehearsal = Rehearsal(model, layout, PLUS, batches, curves, 0)
    damage = rehearsal.damage(kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "refit_classifiers_", lambda *arguments: [])
        assert 0 < damage != rehearsal.damage(kept), "a few rows decide whether for the better"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
