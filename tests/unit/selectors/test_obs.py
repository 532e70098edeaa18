"""OBS on several sources: whose errors count how much."""

from __future__ import annotations

import pytest
import torch

from optimum_grail.core.moments import Moments, Statistics, Subset
from optimum_grail.core.problem import GroupProblem
from optimum_grail.errors import ConfigError
from optimum_grail.selectors.obs import Obs


def problem(crossed: bool = True) -> GroupProblem:
    """Two sources, each with features of its own; those of the first are a hundred times as loud."""
    generator = torch.Generator().manual_seed(0)
    loud, quiet = (torch.randn(200, 4, generator=generator) for _ in range(2))
    loud, quiet = loud * torch.tensor([100.0, 50.0, 0.0, 0.0]), quiet * torch.tensor([0.0, 0.0, 1.0, 0.1])
    subsets = (Subset(Moments.of(loud)), Subset(Moments.of(quiet)))
    return GroupProblem("g", 4, torch.eye(4, dtype=torch.float64), (), Statistics(subsets, crossed))


def test_the_sum_over_rows_forgets_a_quiet_source_and_the_mean_does_not() -> None:
    assert Obs()(problem(), 2).reduction.kept.tolist() == [0, 1]
    assert Obs(across="mean")(problem(), 2).reduction.kept.tolist() == [0, 2]
    assert Obs(across="mean", greedy=False)(problem(), 2).reduction.kept.tolist() == [0, 2]


def test_of_one_source_both_are_one() -> None:
    one = problem(crossed=False)
    assert Obs(across="mean")(one, 2).order.tolist() == Obs()(one, 2).order.tolist()  # type: ignore[union-attr]


def test_sources_are_asked_for_only_where_they_are_read() -> None:
    assert "sources" in Obs(across="mean").needs and "sources" not in Obs().needs
    with pytest.raises(ConfigError, match="'sum' or 'mean'"):
        Obs(across="loudest")  # type: ignore[arg-type]
