"""Channels inside experts: each chooses its own by its own rows, and what few rows say is trusted little."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.allocations.uniform import Uniform
from optimum_grail.architectures.moe import GPT_OSS, MIXTRAL, QWEN2_MOE
from optimum_grail.compensators import COMPENSATORS
from optimum_grail.compensators.grail_plus import GrailPlus
from optimum_grail.compensators.none import NoCompensation
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import Plan
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.data.batches import Batch, make_batches
from optimum_grail.errors import ConfigError
from optimum_grail.fit import experts
from optimum_grail.fit.expert_channels import Narrowed, side_by_side, trust_in
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import GRADIENTS, Methods
from optimum_grail.models.banks import width_of
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Silent
from optimum_grail.selectors import SELECTORS
from optimum_grail.selectors.folding import Folding
from optimum_grail.selectors.magnitude import Magnitude
from optimum_grail.selectors.obs import Obs
from optimum_grail.selectors.random import Random
from optimum_grail.selectors.reap import Reap

PLAIN = Methods(Obs(), NoCompensation(), Uniform(), expert_channels=True)
REFITTED = replace(PLAIN, compensator=GrailPlus())
SPECS = [pytest.param(spec, id=spec.model_types[0]) for spec in (MIXTRAL, QWEN2_MOE, GPT_OSS)]
ABLE = [name for name, entry in SELECTORS if not (entry().needs & (GRADIENTS | {"routing"}) or entry().tuning_rounds)]


def batches(count: int = 24) -> tuple[Batch, ...]:
    draw = torch.Generator().manual_seed(3)
    samples = [{"input_ids": torch.randint(3, 90, (24,), generator=draw)} for _ in range(count)]
    return make_batches(samples, batch_size=8)


def channels_of(model: nn.Module) -> list[ChannelGroup]:
    return [group for group in resolve(model, experts=True).groups if group.kind == "expert-channels"]


def fit_(model: nn.Module, methods: Methods, data: tuple[Batch, ...], width: int = 8, count: int = 4) -> Plan:
    layout = resolve(model, experts=True)
    kept = {"expert-channels": width, "experts": count}
    widths = {group.name: kept.get(group.kind, group.units) for group in layout.groups}
    return FitRun(model, layout, methods, widths, data, 0, Silent()).run_()


@torch.no_grad()
def logits(model: nn.Module, data: tuple[Batch, ...]) -> Tensor:
    return torch.cat([model(**batch.inputs).logits for batch in data])


def error(model: nn.Module, dense: Tensor, data: tuple[Batch, ...]) -> float:
    return float((logits(model, data) - dense).norm() / dense.norm())


@pytest.mark.parametrize("spec", SPECS)
def test_a_refit_makes_up_for_channels_that_went(spec: ArchitectureSpec) -> None:
    data, errors = batches(64), {}
    dense = logits(spec.example(), data)  # type: ignore[misc]
    for name, methods in (("chance", replace(PLAIN, selector=Random())), ("plain", PLAIN), ("refitted", REFITTED)):
        model = spec.example()  # type: ignore[misc]
        plan = fit_(model, methods, data)
        narrowed = [item for item in plan.values() if item.slots < item.group.units]
        assert [item.group.kind for item in narrowed] == ["expert-channels"] * 3
        assert all(item.slots == 8 and plan.widths[item.group.name] == 8 for item in narrowed)
        assert all(width_of(model.get_submodule(group.consumer.module)) == 8 for group in channels_of(model))
        errors[name] = error(model, dense, data)
    assert errors["refitted"] < 0.97 * errors["plain"] < errors["chance"]


def test_experts_choose_different_channels() -> None:
    model = MIXTRAL.example()  # type: ignore[misc]
    plan = fit_(model, PLAIN, batches())
    for item in plan.values():
        kept = (item.reduction.kept % 16).reshape(4, 8)
        assert item.copies == 4 and len({tuple(row) for row in kept.tolist()}) > 1


def test_a_planted_channel_that_says_nothing_goes_without_a_trace() -> None:
    """In every expert eight others are zero: exactly these go, and no output changes."""
    model, data = MIXTRAL.example(), batches()  # type: ignore[misc]
    planted = {}
    for place, group in enumerate(channels_of(model)):
        bank = model.get_submodule(group.consumer.module)
        draw = torch.Generator().manual_seed(place)
        planted[group.name] = torch.stack([torch.randperm(16, generator=draw)[:8].sort().values for _ in range(4)])
        with torch.no_grad():
            for expert, gone in enumerate(planted[group.name]):
                bank.down_proj[expert][:, gone] = 0.0
    dense = logits(model, data)
    plan = fit_(model, PLAIN, data)
    for name, item in plan.items():
        gone = torch.where(item.reduction.assignment < 0)[0].reshape(4, 8) % 16
        assert torch.equal(gone, planted[name])
    assert torch.allclose(logits(model, data), dense, atol=1e-5)


@pytest.mark.parametrize("name", ABLE)
def test_every_selector_by_second_moments_or_weights_chooses(name: str) -> None:
    model = MIXTRAL.example()  # type: ignore[misc]
    plan = fit_(model, replace(PLAIN, selector=SELECTORS.get(name)()), batches())
    assert len(plan) == 3 and all(item.slots == 8 for item in plan.values())


@pytest.mark.parametrize("name", [name for name, _ in COMPENSATORS])
def test_every_compensator_compensates(name: str) -> None:
    model, data = MIXTRAL.example(), batches()  # type: ignore[misc]
    dense, plain = logits(model, data), MIXTRAL.example()  # type: ignore[misc]
    fit_(plain, PLAIN, data)
    fit_(model, replace(PLAIN, compensator=COMPENSATORS.get(name)()), data)
    assert error(model, dense, data) <= 1.02 * error(plain, dense, data)


def test_merged_channels_are_refitted_to_what_was_there() -> None:
    model, data = MIXTRAL.example(), batches(48)  # type: ignore[misc]
    dense, plain = logits(model, data), MIXTRAL.example()  # type: ignore[misc]
    fit_(plain, replace(PLAIN, selector=Folding()), data)
    plan = fit_(model, replace(REFITTED, selector=Folding()), data)
    assert not any(plan[group.name].reduction.is_selection for group in channels_of(model))
    assert error(model, dense, data) < error(plain, dense, data)


@pytest.mark.parametrize("bytes_", [1 << 30, 1], ids=["in one pass", "one expert a pass"])
def test_one_by_one_comes_close_to_together(monkeypatch: pytest.MonkeyPatch, bytes_: int) -> None:
    data, errors = batches(64), {}
    for name, methods, features in (("plain", PLAIN, 0), ("apart", REFITTED, 0), ("together", REFITTED, 1 << 20)):
        monkeypatch.setattr(experts, "TOGETHER", features)
        monkeypatch.setattr(experts, "SHARE_BYTES", bytes_)
        model = MIXTRAL.example()  # type: ignore[misc]
        dense = logits(model, data)
        fit_(model, methods, data)
        errors[name] = error(model, dense, data)
    assert errors["apart"] < errors["plain"] - 0.5 * (errors["plain"] - errors["together"])


def test_an_expert_that_nothing_was_sent_to_is_pruned_by_its_weights() -> None:
    model, twin = MIXTRAL.example(), MIXTRAL.example()  # type: ignore[misc]
    with torch.no_grad():
        for each in (model, twin):  # one token for all, which goes where the router says
            each.model.embed_tokens.weight[:] = each.model.embed_tokens.weight[5]
    group = channels_of(model)[0]
    plan = fit_(model, REFITTED, batches(4))
    told = plan[group.name].diagnostics["few_rows"].split()
    assert told, "one token goes through two experts of four"
    by_weights = fit_(twin, replace(PLAIN, selector=Magnitude(), compensator=NoCompensation()), ())
    sizes = plan[group.name].reduction.assignment.reshape(4, 16) >= 0
    others = by_weights[group.name].reduction.assignment.reshape(4, 16) >= 0
    left, plain = (each.get_submodule(group.consumer.module).down_proj for each in (model, twin))
    unseen = [expert for expert in map(int, told) if torch.equal(sizes[expert], others[expert])]
    assert len(unseen) >= 2 and all(torch.equal(left[expert], plain[expert]) for expert in unseen)


def test_few_rows_move_an_expert_a_part_of_the_way() -> None:
    """With a quarter of the rows that an expert wants, it moves a quarter of what they ask for."""
    rows = experts.ROWS * 16
    reduction = Reduction.prune(16, torch.arange(8))
    for count, share in ((0, 0.0), (rows // 4, 0.25), (rows, 1.0), (2 * rows, 1.0)):
        assert math.isclose(trust_in(Narrowed(reduction, torch.zeros(1, 8), count, {})), share)


def test_parts_stand_side_by_side() -> None:
    parts = [Reduction.prune(4, torch.tensor([1, 3])), Reduction.fold(torch.tensor([0, 0, 1, 1]))]
    whole = side_by_side(parts)
    assert whole.assignment.tolist() == [-1, 0, -1, 1, 2, 2, 3, 3] and whole.slots == 4
    assert whole.weight.tolist() == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("within_block", ["sequential", "joint"])
def test_experts_go_first_and_channels_of_those_that_are_left(within_block: Any) -> None:
    data, model = batches(48), MIXTRAL.example()  # type: ignore[misc]
    plan = fit_(model, replace(REFITTED, expert_selector=Reap(), within_block=within_block), data, count=3)
    kinds = [item.group.kind for item in plan.values() if item.group.block.endswith("layers.0")]
    assert kinds == ["experts", "expert-channels"]
    assert all(item.copies == 3 and item.slots == 8 for item in plan.values() if item.group.copies > 1)
    bank = model.get_submodule(channels_of(model)[0].consumer.module)
    assert bank.down_proj.shape == (3, 32, 8) and bool(torch.isfinite(logits(model, data)).all())


def test_without_data_weights_decide() -> None:
    model = MIXTRAL.example()  # type: ignore[misc]
    blind = replace(PLAIN, selector=Magnitude())
    assert not blind.needs
    plan = fit_(model, blind, ())
    assert {item.slots for item in plan.values()} == {8}


@pytest.mark.parametrize("name", [name for name, _ in SELECTORS if name not in (*ABLE, "reap", "frequency")])
def test_selectors_by_gradients_are_refused_by_name(name: str) -> None:
    selector = SELECTORS.get(name)()
    with pytest.raises(ConfigError, match=f"{type(selector).__name__} judges channels by gradients.*--expert-ffn"):
        replace(PLAIN, selector=selector)
