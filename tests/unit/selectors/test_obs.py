"""OBS on several sources: whose errors count how much."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given as given_
from hypothesis import settings
from hypothesis import strategies as st

from optimum_grail.core.moments import Moments, Statistics, Subset
from optimum_grail.core.problem import GroupProblem, Selection
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.worst_source import source_errors
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


def test_of_one_source_all_are_one() -> None:
    one = problem(crossed=False)
    for across in ("mean", "max"):
        assert Obs(across=across)(one, 2).order.tolist() == Obs()(one, 2).order.tolist()  # type: ignore[arg-type,union-attr]


def unfair() -> GroupProblem:
    """Four sources that live on features 0 and 1, and one that lives on 2, hardly on 1; independent of each other."""
    generator = torch.Generator().manual_seed(0)
    spreads = [torch.tensor([0.6, 0.4, 0.0]).sqrt()] * 4 + [torch.tensor([0.0, 0.1, 0.9]).sqrt()]
    subsets = tuple(Subset(Moments.of(torch.randn(500, 3, generator=generator) * spread)) for spread in spreads)
    return GroupProblem("g", 3, torch.eye(3, dtype=torch.float64), (), Statistics(subsets, crossed=True))


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_the_worst_source_is_served_where_sum_and_mean_forget_it(greedy: bool, affine: bool) -> None:
    """Dropping 2 costs one source nine tenths and the others nothing; dropping 1 costs four tenths and one tenth."""
    given = replace(unfair(), owns_bias=affine)
    kept, errors = {}, {}
    for across in ("sum", "mean", "max"):
        selection = Obs(across=across, greedy=greedy)(given, 2)  # type: ignore[arg-type]
        kept[across] = selection.reduction.kept.tolist()
        sources = [subset.moments for subset in given.measured.subsets]
        errors[across] = source_errors(given.weight, sources, selection, affine, 1e-3)
    assert kept == {"sum": [0, 1], "mean": [0, 1], "max": [0, 2]}
    assert errors["mean"].max() == pytest.approx(0.9, abs=0.06) and errors["max"].max() == pytest.approx(0.4, abs=0.06)


def test_errors_of_sources_are_those_of_one_ridge_regression_with_one_bias() -> None:
    """Against rows that are really regressed, with sources of different means and correlated features."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(6, 6, generator=generator)
    rows = [torch.randn(300, 6, generator=generator) @ mixing + shift for shift in (0.0, 2.0)]
    weight = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    selection = Selection(Reduction.prune(3, torch.tensor([0, 2])))  # of three units of two features
    found = source_errors(weight, [Moments.of(part) for part in rows], selection, True, 0.0)
    every = torch.cat(rows).double()
    design = torch.cat([every[:, [0, 1, 4, 5]], torch.ones(len(every), 1)], dim=1)
    outputs = every @ weight.T
    left = (outputs - design @ torch.linalg.lstsq(design, outputs).solution).square().sum(1).split(300)
    most = (outputs - outputs.mean(0)).square().sum(1).split(300)
    expected = torch.stack([part.sum() / whole.sum() for part, whole in zip(left, most, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@settings(max_examples=20)
@given_(seed=st.integers(0, 10**6))
def test_none_of_the_other_two_is_better_for_the_worst_source(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(40, 8, generator=generator) @ torch.randn(8, 8, generator=generator) for _ in range(3)]
    subsets = tuple(Subset(Moments.of(part)) for part in rows)
    weight = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    given = GroupProblem("g", 4, weight, (), Statistics(subsets, crossed=True))
    sources = [subset.moments for subset in subsets]
    worst = {
        across: float(source_errors(weight, sources, Obs(across=across)(given, 2), False, 1e-3).max())  # type: ignore[arg-type]
        for across in ("sum", "mean", "max")
    }
    assert worst["max"] <= min(worst["sum"], worst["mean"]) * (1 + 1e-9)


def test_sources_are_asked_for_only_where_they_are_read() -> None:
    assert "sources" in Obs(across="mean").needs and "sources" not in Obs().needs
    assert "sources" in Obs(across="max").needs
    with pytest.raises(ConfigError, match="expected sum, mean, max"):
        Obs(across="loudest")  # type: ignore[arg-type]
