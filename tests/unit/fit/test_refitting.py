"""Refits inside a fit: on every kind of layer, in every order, and nothing where nothing is asked or gained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.allocations.uniform import Uniform
from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_basic, tiny_bottleneck
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.compensators.grail import Grail
from optimum_grail.compensators.grail_plus import GrailPlus
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.producers import Changes
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.spec import ArchitectureSpec, Mlp
from optimum_grail.data.batches import Batch, make_batches
from optimum_grail.errors import ArchitectureError, ConfigError, StatisticsError
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods, WithinBlock
from optimum_grail.models.resolve import resolve
from optimum_grail.models.restoring import fitted_tensors, restore_
from optimum_grail.models.surgery import apply_
from optimum_grail.refits.none import NoRefit
from optimum_grail.refits.producers import Producers
from optimum_grail.report.progress import Silent
from optimum_grail.selectors.folding import Folding
from optimum_grail.selectors.obs import Obs

MODELS = {"llama": tiny_llama, "bert": tiny_bert, "vit": tiny_vit, "basic": tiny_basic, "bottleneck": tiny_bottleneck}
REFIT = Producers(rounds=2, damping=0.1)
NONE = Methods(Obs(), GrailPlus(), Uniform())
BOTH = Methods(Obs(), GrailPlus(), Uniform(), refit=REFIT)


def batches_of(model: nn.Module, count: int = 120) -> tuple[Batch, ...]:
    """Tokens of a skewed distribution, or images; masked where the model takes a mask."""
    draw = torch.Generator().manual_seed(1)
    text = "vocab_size" in model.config.to_dict()
    size = 16 if model.config.model_type == "vit" else 32
    samples = []
    for number in range(count):
        if text:
            length = 24 - number % 3
            ids = (torch.rand(length, generator=draw) ** 3 * 90).long() + 3
            samples.append({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        else:
            samples.append({"pixel_values": torch.randn(3, size, size, generator=draw).cumsum(-1) / 4})
    return make_batches(samples, batch_size=8)


def fitted_(model: nn.Module, methods: Methods, whole: str = "") -> Plan:
    """Compress ``model`` to half of every FFN or convolution; layers with ``whole`` in their name stay."""
    layout = resolve(model)
    widths = {
        group.name: group.units // 2 if group.kind != "heads" and not (whole and whole in group.name) else group.units
        for group in layout.groups
    }
    return FitRun(model, layout, methods, widths, batches_of(model), 0, Silent()).run_()


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_producers_are_refitted_where_held_out_rows_say_so(build: Callable[[], nn.Module]) -> None:
    plain, refitted = build(), build()
    before, after = fitted_(plain, NONE), fitted_(refitted, BOTH)
    moved = [plan for plan in after.values() if plan.refitted]
    assert moved and all(plan.diagnostics["producers"] > 0 for plan in moved)
    first = moved[0].group.name  # what lies before it is the same in both
    assert after[first].diagnostics["held_error"] < before[first].diagnostics["held_error"]
    assert {name: p.reduction.slots for name, p in before.items()} == {n: p.reduction.slots for n, p in after.items()}
    for one, other in zip(plain.parameters(), refitted.parameters(), strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype


@pytest.mark.parametrize("within", ["sequential", "joint"])
def test_what_stays_whole_keeps_its_producers_to_the_last_bit(within: WithinBlock) -> None:
    model = tiny_llama()
    dense = copy.deepcopy(model)
    fitted_(model, replace(BOTH, within_block=within), whole="layers.1.mlp")
    for name in ("gate_proj", "up_proj"):
        path = f"model.layers.1.mlp.{name}.weight"
        assert torch.equal(model.get_parameter(path), dense.get_parameter(path))
    assert not torch.equal(model.get_parameter("model.layers.2.mlp.up_proj.weight")[:4], torch.zeros(4, 32))


def test_folded_producers_are_refitted_too() -> None:
    model = tiny_bert()
    plan = fitted_(model, Methods(Folding(), GrailPlus(), Uniform(), refit=REFIT))
    assert any(item.refitted and not item.reduction.is_selection for item in plan.values())


def test_a_refit_asks_for_a_compensator_that_looks_at_the_dense_model() -> None:
    with pytest.raises(ConfigError, match="--target residual"):
        Methods(Obs(), Grail(), Uniform(), refit=Producers())
    assert Methods(Obs(), Grail(), Uniform(), refit=NoRefit()).refit == NONE.refit
    assert not NONE.needs - {"gram", "held-out", "drift"}


@pytest.mark.parametrize("build", [tiny_llama, tiny_bert, tiny_basic], ids=["llama", "bert", "basic"])
def test_a_refitted_block_is_restored_to_the_last_bit(build: Callable[[], nn.Module]) -> None:
    model = build()
    again = copy.deepcopy(model)
    plans = list(fitted_(model, BOTH).values())
    assert any(plan.refitted for plan in plans)
    kept = {name: tensor.detach().clone() for name, tensor in fitted_tensors(model, plans).items()}
    restore_(again, plans, lambda places: {name: kept[name] for name in places})
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def _whole(group: ChannelGroup, weight: Tensor, changes: Changes) -> GroupPlan:
    return GroupPlan(group, Reduction.keep_all(group.units), Readout(weight), changes=changes)


def test_changes_that_do_not_fit_are_refused_before_anything_is_written() -> None:
    model = tiny_bert()
    plan = next(item for item in fitted_(model, BOTH).values() if item.refitted)
    group = plan.group.narrowed(plan.reduction.slots)
    sound = [torch.zeros(group.units, 33)]  # a column for the bias
    weight = model.get_submodule(group.consumer.module).get_parameter("weight").detach().double()
    for changes, error in (
        ([], ArchitectureError),
        ([sound[0][:, :-1]], ArchitectureError),
        ([sound[0] * float("nan")], StatisticsError),
    ):
        item = _whole(group, weight, changes)
        with pytest.raises(error):
            apply_(model, Plan([item]))
    before = copy.deepcopy(model.state_dict())
    apply_(model, Plan([_whole(group, weight, sound)]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_follows_a_producer_may_write_into_its_output() -> None:
    """As an activation in place does."""

    class Block(nn.Module):
        """A residual pair of linear layers."""

        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(torch.relu_(self.up(x)))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(*(Block() for _ in range(2))).eval()
    spec = ArchitectureSpec((), ("*",), (Mlp(("up",), "down", "@block"),), main_input="image")
    draw = torch.Generator().manual_seed(1)
    batches = make_batches([{"input": torch.randn(40, 6, generator=draw)} for _ in range(20)], batch_size=4)
    layout = resolve(model, spec)
    widths = {group.name: group.units // 2 for group in layout.groups}
    plan = FitRun(model, layout, BOTH, widths, batches, 0, Silent()).run_()
    assert all(item.refitted for item in plan.values())
