"""Surgery refuses what it cannot do before it changes anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.core.groups import ChannelGroup, Port
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.errors import ArchitectureError, StatisticsError
from optimum_grail.models.matrix import features_per_unit, to_matrix
from optimum_grail.models.resolve import resolve
from optimum_grail.models.surgery import apply_, check_weights, narrow_


def pruned(model: nn.Module, group: ChannelGroup, keep: list[int]) -> GroupPlan:
    module = model.get_submodule(group.consumer.module)
    reduction = Reduction.prune(group.units, torch.tensor(keep))
    return GroupPlan(
        group, reduction, Readout(reduction.lift_columns(to_matrix(module), features_per_unit(group, module)))
    )


def with_bias(item: GroupPlan, bias: torch.Tensor) -> GroupPlan:
    return replace(item, readout=Readout(item.readout.weight, bias))


def test_a_bias_is_added_to_the_consumers_own() -> None:
    model = tiny_bert()
    group = resolve(model).groups[1]
    before = model.get_submodule(group.consumer.module).bias.clone()
    apply_(model, Plan([with_bias(pruned(model, group, [0, 3]), torch.arange(32.0))]))
    after = model.get_submodule(group.consumer.module).bias
    torch.testing.assert_close(after, before + torch.arange(32.0))
    assert isinstance(after, nn.Parameter) and after.requires_grad


def test_a_bias_goes_into_the_next_batch_norm() -> None:
    model, bias = tiny_basic(), torch.linspace(-1, 1, 8)
    group = resolve(model).groups[0]
    block = model.get_submodule(group.block)
    x = torch.randn(2, 8, 9, 9)
    expected = block.layer[1].normalization(block.layer[1].convolution(x) + bias[:, None, None])
    apply_(model, Plan([with_bias(pruned(model, group, list(range(8))), bias)]))
    torch.testing.assert_close(block.layer[1](x), expected)


def test_folding_sums_columns_and_averages_rows() -> None:
    model = tiny_bert()
    group = resolve(model).groups[1]
    producer, consumer = (model.get_submodule(port.module) for port in (group.producers[0], group.consumer))
    rows, columns = producer.weight.detach().clone(), consumer.weight.detach().clone()
    reduction = Reduction.fold(torch.arange(48) // 2)
    apply_(model, Plan([GroupPlan(group, reduction, Readout(reduction.lift_columns(to_matrix(consumer))))]))
    torch.testing.assert_close(producer.weight, rows.reshape(24, 2, -1).mean(1))
    torch.testing.assert_close(consumer.weight, columns.reshape(-1, 24, 2).sum(2))


def test_requires_grad_and_notes_on_parameters_stay() -> None:
    model = tiny_llama()
    group = resolve(model).groups[1]
    weight = model.get_submodule(group.consumer.module).weight
    weight.requires_grad_(False)
    weight.note = "kept"
    apply_(model, Plan([pruned(model, group, [1, 2])]))
    after = model.get_submodule(group.consumer.module).weight
    assert not after.requires_grad and after.note == "kept" and after.is_contiguous()
    assert model.model.layers[0].mlp.intermediate_size == 2


class Fused(nn.Module):
    """Two producers fused into one transposed layer, and rows and columns that belong to nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.up = Conv1D(10, 3)
        self.down = Conv1D(2, 7)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        units = (self.up.nf - 2) // 2
        gate, value, rest = self.up(x).split((units, units, 2), -1)
        hidden = gate * value if mask is None else gate * value * mask
        return self.down(torch.cat([rest[..., :1], hidden, rest], -1))


FUSED = ChannelGroup(
    name="fused",
    kind="mlp",
    units=4,
    producers=(Port("up", "out"), Port("up", "out", offset=4)),
    consumer=Port("down", "in", offset=1),
    block="",
    layer="0",
    owner="",
    stage=0,
    stream=None,
    tie="",
    cost=10,
)


def test_strips_inside_larger_axes() -> None:
    model, x = Fused(), torch.randn(5, 3)
    expected = model(x, torch.tensor([0.0, 1.0, 0.0, 1.0]))
    weight = to_matrix(model.down)[:, 1:5][:, [1, 3]]
    before = sum(parameter.numel() for parameter in model.parameters())
    apply_(model, {"fused": GroupPlan(FUSED, Reduction.prune(4, torch.tensor([1, 3])), Readout(weight))})
    assert (model.up.nf, model.down.nx) == (6, 5)
    torch.testing.assert_close(model(x), expected)
    assert before - sum(parameter.numel() for parameter in model.parameters()) == 2 * FUSED.cost
    narrow_(model, replace(FUSED, units=2, producers=(FUSED.producers[0], Port("up", "out", offset=2))), 1)
    assert model(x).shape == (5, 2)


def break_shape(item: GroupPlan) -> GroupPlan:
    return replace(item, readout=Readout(item.readout.weight[:, 1:]))


def break_values(item: GroupPlan) -> GroupPlan:
    return replace(item, readout=Readout(item.readout.weight * float("nan")))


def add_bias(item: GroupPlan) -> GroupPlan:
    return with_bias(item, torch.zeros(32))


def break_units(item: GroupPlan) -> GroupPlan:
    return replace(item, reduction=Reduction.prune(47, torch.arange(2)))


def break_path(item: GroupPlan) -> GroupPlan:
    return replace(item, group=replace(item.group, producers=(Port("model.nowhere", "out"),)))


def break_width(item: GroupPlan) -> GroupPlan:
    return replace(item, group=replace(item.group, producers=(replace(item.group.producers[0], span=2),)))


def drop_readout(item: GroupPlan) -> GroupPlan:
    return replace(item, readout=None)


def break_attribute(item: GroupPlan) -> GroupPlan:
    return replace(item, group=replace(item.group, attributes=(("model.layers.1.mlp.hidden_size", 1),)))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (break_shape, ArchitectureError, r"shape \(32, 1\), expected \(32, 2\)"),
        (break_values, StatisticsError, "not finite in torch.float32"),
        (add_bias, ArchitectureError, "no BatchNorm follows"),
        (break_units, ArchitectureError, "reduces 47 units"),
        (break_path, ArchitectureError, "nowhere"),
        (break_width, ArchitectureError, "has width 48"),
        (drop_readout, ArchitectureError, "no readout"),
        (break_attribute, ArchitectureError, "hidden_size is not 48"),
    ],
)
def test_nothing_changes_when_one_group_is_wrong(
    spoil: Callable[[GroupPlan], GroupPlan], error: type[Exception], message: str
) -> None:
    model = tiny_llama()
    groups = resolve(model).groups
    before = dict(model.named_parameters())
    plan = Plan([pruned(model, groups[0], [0]), spoil(pruned(model, groups[3], [4, 5]))])
    with pytest.raises(error, match=message):
        apply_(model, plan)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


def test_applying_a_plan_twice_is_refused() -> None:
    model = tiny_llama()
    plan = Plan([pruned(model, resolve(model).groups[1], [4, 5])])
    apply_(model, plan)
    with pytest.raises(ArchitectureError, match="applied already"):
        apply_(model, plan)


def test_overflow_in_half_precision_is_refused() -> None:
    model = tiny_llama().to(torch.float16)
    item = pruned(model, resolve(model).groups[1], [4, 5])
    with pytest.raises(StatisticsError, match="float16"):
        apply_(model, Plan([replace(item, readout=Readout(item.readout.weight * 1e9))]))


def test_weights_without_usable_values_are_refused() -> None:
    model = tiny_llama()
    groups = resolve(model).groups
    check_weights(model, groups)
    module = model.get_submodule(groups[1].consumer.module)
    weight = module.weight
    module.weight = nn.Parameter(weight.to("meta"))
    with pytest.raises(ArchitectureError, match="nothing says where its values are"):
        check_weights(model, groups)
    module.weight = nn.Parameter(weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ArchitectureError, match="quantized"):
        check_weights(model, groups)
    module.weight = nn.Parameter(weight * float("inf"))
    with pytest.raises(StatisticsError, match="NaN or infinite"):
        check_weights(model, groups)


@pytest.mark.parametrize("units", [-1, 49])
def test_narrowing_within_bounds(units: int) -> None:
    model = tiny_llama()
    with pytest.raises(ArchitectureError, match="48 units"):
        narrow_(model, resolve(model).groups[1], units)
