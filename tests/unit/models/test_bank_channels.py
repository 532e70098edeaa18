"""Channels inside experts in the tensors of a bank: every layout, the law of their maps, and what surgery leaves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from optimum_grail.architectures.moe import GLM4_MOE, GPT_OSS, MIXTRAL, SPECS
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.spec import ArchitectureSpec, ExpertChannels, SharedChannels
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.banks import (
    channelled,
    channels_back,
    channels_first,
    parameters_per_channel,
    producers_of,
    width_of,
)
from optimum_grail.models.check import check_map
from optimum_grail.models.expert_laws import every_expert
from optimum_grail.models.matrix import copies_of, to_matrix
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import current_widths
from optimum_grail.models.surgery import apply_, narrow_

FAMILIES = [pytest.param(spec, id=spec.model_types[0]) for spec in SPECS]


def channels_of(model: nn.Module) -> list[ChannelGroup]:
    return [group for group in resolve(model, experts=True).groups if group.kind == "expert-channels"]


def plainly(model: nn.Module, group: ChannelGroup, keep: torch.Tensor) -> GroupPlan:
    """Plain pruning of the channels of every expert to ``keep``."""
    reduction = every_expert(model, group, keep)
    return GroupPlan(
        group, reduction, Readout(reduction.lift_columns(to_matrix(model.get_submodule(group.consumer.module))))
    )


@pytest.mark.parametrize("spec", FAMILIES)
def test_every_expert_loses_its_own_channels_and_nothing_else_changes(spec: ArchitectureSpec) -> None:
    model = spec.example()  # type: ignore[misc]
    dense, group = copy.deepcopy(model), channels_of(model)[0]
    draw = torch.Generator().manual_seed(0)
    keep = torch.stack([torch.randperm(16, generator=draw)[:8].sort().values for _ in range(4)])
    apply_(model, Plan([plainly(model, group, keep)]))
    bank, before = (whole.get_submodule(group.consumer.module) for whole in (model, dense))
    assert width_of(bank) == 8 and parameters_per_channel(bank) == group.consumer.span
    for name, tensor in before.named_parameters(recurse=False):
        left = bank.get_parameter(name)
        if name not in channelled(before):
            assert torch.equal(left, tensor), name
            continue
        rows = channels_first(before, name, tensor)
        expected = torch.stack([rows[expert, keep[expert]] for expert in range(4)])
        assert torch.equal(left, channels_back(before, name, expected)), name
    (again, *_) = channels_of(model)
    assert again.units == 8 and again.cost == group.cost and current_widths(model, resolve(dense, experts=True))


@pytest.mark.parametrize("spec", [MIXTRAL, GPT_OSS], ids=["concatenated", "interleaved and turned"])
def test_what_makes_a_channel_stands_beside_it(spec: ArchitectureSpec) -> None:
    """Gate and other half of each channel, with its bias, give what enters ``down_proj`` there."""
    model = spec.example()  # type: ignore[misc]
    bank = model.get_submodule(channels_of(model)[0].consumer.module)
    gate, up = producers_of(bank, 2)
    weight = bank.get_parameter("gate_up_proj")[2].double()
    if spec is MIXTRAL:
        assert torch.equal(gate, weight[:16]) and torch.equal(up, weight[16:])
    else:
        bias = bank.get_parameter("gate_up_proj_bias")[2].double()
        assert torch.equal(gate, torch.cat([weight.T[0::2], bias[0::2, None]], 1))
        assert torch.equal(up, torch.cat([weight.T[1::2], bias[1::2, None]], 1))
    for name in channelled(bank):
        tensor = bank.get_parameter(name)
        assert torch.equal(channels_back(bank, name, channels_first(bank, name, tensor)), tensor), name


def test_experts_go_first_and_channels_of_those_that_are_left() -> None:
    model = MIXTRAL.example()  # type: ignore[misc]
    layout = resolve(model, experts=True)
    experts, channels = layout.groups[1:3]
    narrow_(model, experts, 3)
    assert copies_of(model, channels) == 3
    plan = plainly(model, channels, torch.arange(8))
    assert plan.copies == 3 and plan.slots == 8 and len(plan.reduction.assignment) == 48
    apply_(model, Plan([plan]))
    assert model.get_submodule(channels.consumer.module).gate_up_proj.shape == (3, 16, 32)
    told = layout.removed_parameters({experts.name: 3, channels.name: 8})
    assert layout.total_parameters - told == sum(parameter.numel() for parameter in model.parameters())
    dense = MIXTRAL.example()  # type: ignore[misc]
    with pytest.raises(ArchitectureError, match="reduces 48 units to 24"):
        apply_(dense, Plan([plan]))


@pytest.mark.parametrize(
    "assignment",
    [[0, 1, -1, 2, 3, -1, -1, -1], [0, 1, 2, -1, 3, -1, -1, -1], [0, 2, -1, -1, 1, 3, -1, -1]],
    ids=["all of one", "more of one", "across"],
)
def test_a_plan_with_another_number_of_channels_in_some_expert_is_refused(assignment: list[int]) -> None:
    """Two experts of four channels, of which two shall stay in each."""
    model = MIXTRAL.example()  # type: ignore[misc]
    group = channels_of(model)[0]
    part = torch.tensor(assignment).repeat_interleave(8)
    reduction = Reduction(part, torch.ones(64, dtype=torch.float64), 4)
    with pytest.raises(ArchitectureError, match="reduces 64 units to 4"):
        apply_(model, Plan([GroupPlan(group, reduction, Readout(torch.zeros(32, 4, dtype=torch.float64)))]))


def change(spec: ArchitectureSpec, **values: object) -> ArchitectureSpec:
    """The map with its declaration of channels changed."""
    groups = tuple(replace(g, **values) if isinstance(g, ExpertChannels) else g for g in spec.groups)  # type: ignore[arg-type]
    return replace(spec, groups=groups)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bank": "mlp.gate"}, "a bank of experts; found MixtralTopKRouter"),
        ({"attributes": ("mlp.gate.top_k",)}, "is 2, but experts have 16 channels"),
        ({"chosen": "mlp.gate.weight"}, "expected how many of the 4 experts"),
        ({"field": "num_hidden_layers"}, "cannot be saved, loaded and run"),
    ],
    ids=["not a bank", "another number", "no number", "another field"],
)
def test_a_wrong_map_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        check_map(change(MIXTRAL, **values))


def other_layout(bank: nn.Module) -> None:
    bank.is_concatenated = False


def silent(bank: nn.Module) -> None:
    nn.init.zeros_(bank.get_parameter("down_proj"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(other_layout, "is not the same as setting them to zero"), (silent, "changes no output")],
    ids=["gates elsewhere", "nothing comes out"],
)
def test_the_law_of_channels_finds_a_wrong_layout(spoil: Callable[[nn.Module], None], message: str) -> None:
    def example() -> nn.Module:
        model = MIXTRAL.example()  # type: ignore[misc]
        for layer in range(3):
            spoil(model.get_submodule(f"model.layers.{layer}.mlp.experts"))
        return model

    groups = tuple(group for group in MIXTRAL.groups if isinstance(group, ExpertChannels))
    with pytest.raises(ArchitectureError, match=message):
        check_map(replace(MIXTRAL, groups=groups, example=example))


def test_shared_experts_are_as_wide_as_routed_ones() -> None:
    """Two experts that all tokens pass, in one module: a unit is two channels of it."""
    model = GLM4_MOE.example()  # type: ignore[misc]
    layout = resolve(model, experts=True)
    shared = next(group for group in layout.groups if group.kind == "shared-channels")
    routed = next(group for group in layout.groups if group.kind == "expert-channels" and group.block == shared.block)
    assert shared.uniform == routed.uniform and shared.units == routed.units == 16
    assert shared.consumer.span == 2 and shared.cost == 2 * 3 * 32
    narrow_(model, shared, 8)
    assert model.get_submodule(shared.consumer.module).in_features == 16
    kinds = {group.kind for group in resolve(model).groups}
    assert kinds == {"heads", "mlp"}, "without being asked for, nothing of a mixture is a group"


def test_a_module_that_holds_no_whole_number_of_shared_experts_is_refused() -> None:
    groups = tuple(g for g in GLM4_MOE.groups if isinstance(g, SharedChannels))
    with pytest.raises(ArchitectureError, match="expected a multiple of 3, the number of experts in num_hidden_layers"):
        resolve(GLM4_MOE.example(), replace(GLM4_MOE, groups=(replace(groups[0], count="num_hidden_layers"),)), True)  # type: ignore[misc]
