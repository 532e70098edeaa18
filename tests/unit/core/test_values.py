"""Ports, plans, problems and selections: small values that everything else passes around."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from optimum_grail.core.groups import ChannelGroup, Port
from optimum_grail.core.linalg import ESCALATIONS, factorise, live_features
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.problem import GroupProblem, Selection
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.errors import StatisticsError


def group(name: str, units: int = 4) -> ChannelGroup:
    return ChannelGroup(
        name, "mlp", units, (Port("up", "out"),), Port("down", "in"), "block", "0", "", 0, None, "tie", cost=1
    )


def test_a_port_owns_a_strip() -> None:
    units = torch.tensor([0, 2])
    assert Port("q", "out").elements(units).tolist() == [0, 2]
    assert Port("q", "out", span=3).elements(units).tolist() == [0, 1, 2, 6, 7, 8]
    assert Port("q", "out", span=2, offset=10).elements(units).tolist() == [10, 11, 14, 15]
    assert Port("q", "out", span=2).elements(units[:0]).tolist() == []


def test_a_plan_is_a_mapping_in_order_and_cannot_change() -> None:
    readout = Readout(torch.zeros(1, 2))
    items = [
        GroupPlan(group(name), Reduction.prune(4, torch.arange(keep)), readout) for name, keep in (("b", 2), ("a", 3))
    ]
    plan = Plan(items)
    assert list(plan) == ["b", "a"] and len(plan) == 2 and plan["a"] is items[1]
    assert plan.widths == {"b": 2, "a": 3} and "c" not in plan
    with pytest.raises(TypeError):
        plan["c"] = items[0]  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        items[0].readout = None  # type: ignore[misc]


def test_a_problem_without_statistics_names_its_group() -> None:
    problem = GroupProblem("layers.1.mlp", 3, torch.zeros(2, 6, dtype=torch.float64))
    assert problem.span == 2
    assert problem.per_unit(torch.arange(6.0)).tolist() == [1.0, 5.0, 9.0]
    with pytest.raises(StatisticsError, match=r"layers\.1\.mlp"):
        _ = problem.measured


@pytest.mark.parametrize(
    ("scores", "keep", "kept", "order"),
    [
        ([3.0, 1.0, 2.0], 2, [0, 2], [1, 2, 0]),
        ([1.0, 1.0, 1.0], 1, [0], [2, 1, 0]),
        ([0.0, 2.0, 2.0, 0.0], 3, [0, 1, 2], [3, 0, 2, 1]),
        ([5.0], 1, [0], [0]),
    ],
)
def test_the_largest_scores_stay_and_of_equals_the_earlier(
    scores: list[float], keep: int, kept: list[int], order: list[int]
) -> None:
    selection = Selection.by_score(torch.tensor(scores), keep)
    assert selection.reduction.kept.tolist() == kept
    assert selection.order is not None and selection.order.tolist() == order
    assert selection.curve is None


def test_dead_features_leave_the_system() -> None:
    diagonal = torch.tensor([0.0, 1.0, 1e-20, 4.0, -1.0], dtype=torch.float64)
    assert live_features(diagonal).tolist() == [1, 3]
    assert live_features(torch.zeros(3)).tolist() == [] == live_features(torch.zeros(0)).tolist()
    solution = factorise(torch.diag(diagonal.clamp(min=0)), 0.0).solve(torch.ones(1, 5, dtype=torch.float64))
    torch.testing.assert_close(solution, torch.tensor([[0, 1, 0, 0.25, 0]], dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_the_relative_ridge_does_not_depend_on_units(scale: float) -> None:
    rows = torch.randn(50, 4, dtype=torch.float64)
    sizes = torch.tensor([1.0, 1e-3, 1e3, 1.0], dtype=torch.float64) * scale
    gram, scaled = rows.T @ rows, (rows * sizes).T @ (rows * sizes)
    wanted = torch.randn(2, 4, dtype=torch.float64)
    first = factorise(gram, 1e-2).solve(wanted)
    second = factorise(scaled, 1e-2).solve(wanted * sizes) * sizes
    torch.testing.assert_close(first, second)


def test_the_ridge_grows_until_the_system_can_be_solved() -> None:
    matrix = torch.tensor([[1.0, 1.05], [1.05, 1.0]], dtype=torch.float64)  # indefinite by rounding
    factor = factorise(matrix, 1e-6)
    assert not factor.inverse and 0.05 < factor.ridge <= 1e-6 * 10.0**ESCALATIONS
    assert factorise(torch.eye(2, dtype=torch.float64), 0.0).ridge == 0.0


def test_the_mean_ridge_is_that_of_the_diagonal() -> None:
    matrix = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))
    solution = factorise(matrix, 0.5, "mean").solve(torch.ones(1, 2, dtype=torch.float64))
    torch.testing.assert_close(solution, torch.tensor([[1 / 2, 1 / 4]], dtype=torch.float64))
