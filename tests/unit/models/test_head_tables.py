"""Parameters that hold something for every head beside the projections."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from optimum_grail.architectures.swin import SWIN, tiny_swin
from optimum_grail.architectures.vit import BEIT, tiny_beit, tiny_beit_plain
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.matrix import to_matrix
from optimum_grail.models.resolve import resolve
from optimum_grail.models.surgery import apply_

TABLE = "relative_position_bias.relative_position_bias_table"


def heads(model: nn.Module) -> list[ChannelGroup]:
    return [group for group in resolve(model).groups if group.kind == "heads"]


def shrink_(model: nn.Module, group: ChannelGroup, reduction: Reduction) -> None:
    weight = reduction.lift_columns(to_matrix(model.get_submodule(group.consumer.module)), group.consumer.span)
    apply_(model, Plan([GroupPlan(group, reduction, Readout(weight))]))


def test_the_columns_of_the_heads_that_stay_are_kept() -> None:
    model = tiny_beit()
    group = heads(model)[1]
    (table,) = group.tables
    assert table.path == f"beit.layers.1.{TABLE}" and (table.axis, table.span) == (1, 1)
    before = model.get_parameter(table.path).detach().clone()
    shrink_(model, group, Reduction.prune(4, torch.tensor([0, 2])))
    after = model.get_parameter(table.path)
    assert isinstance(after, nn.Parameter) and torch.equal(after, before[:, [0, 2]])
    assert heads(model)[1].tables[0].cost == table.cost == len(before)


def test_folded_heads_share_their_mean() -> None:
    model = tiny_beit()
    group = heads(model)[0]
    before = model.get_parameter(group.tables[0].path).detach().clone()
    shrink_(model, group, Reduction.fold(torch.tensor([0, 0, 1, 1])))
    after = model.get_parameter(group.tables[0].path)
    torch.testing.assert_close(after.detach(), torch.stack([before[:, :2].mean(1), before[:, 2:].mean(1)], 1))


def test_they_count_among_the_parameters_that_go() -> None:
    model = tiny_swin()
    layout = resolve(model)
    group = layout.groups[0]
    linear = sum(layout.weights[port.module].columns * port.span for port in group.producers)
    biases = sum(port.span * layout.weights[port.module].vectors for port in group.producers)
    consumed = layout.weights[group.consumer.module].rows * group.consumer.span
    assert group.tables[0].cost == 49 and group.cost == linear + biases + consumed + 49
    assert layout.removed_parameters({group.name: 1}) == group.cost
    times = dict.fromkeys(layout.weights, 4)
    assert layout.removed_parameters({group.name: 1}, times) == 4 * (group.cost - 49)
    assert layout.removed_parameters({group.name: 1}, times | {group.tables[0].path: 4}) == 4 * group.cost


def test_blocks_without_a_table_have_none() -> None:
    assert all(not group.tables for group in heads(tiny_beit_plain()))


def with_tables(spec: ArchitectureSpec, *tables: tuple[str, int]) -> ArchitectureSpec:
    first, *others = spec.groups
    changed: Any = replace(first, tables=tables)  # type: ignore[call-arg]
    return replace(spec, groups=(changed, *others))


@pytest.mark.parametrize(
    ("path", "axis", "message"),
    [
        (TABLE, 0, r"expects 4 heads along axis 0 of beit\.layers\.0.*found \(52, 4\)"),
        (TABLE, 2, "along axis 2"),
        ("relative_position_bias.window_size", 0, "found tuple"),
    ],
)
def test_what_is_no_table_is_refused(path: str, axis: int, message: str) -> None:
    model = tiny_beit()
    with pytest.raises(ArchitectureError, match=message):
        resolve(model, with_tables(BEIT, (path, axis)))


def test_a_plan_for_another_table_is_refused_before_anything_changes() -> None:
    model = tiny_swin()
    layout = resolve(model, SWIN)
    group = layout.groups[0]
    wrong = replace(group, tables=(replace(group.tables[0], span=2),))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ArchitectureError, match="does not have 4 heads along 1"):
        shrink_(model, wrong, Reduction.prune(2, torch.tensor([1])))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
