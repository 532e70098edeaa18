"""Selectors of patterns against plain transcriptions, and their laws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optimum_grail.config.config import GrailConfig
from optimum_grail.core.pattern import LinearProblem, LinearSums, Pattern, settled, surgeon
from optimum_grail.errors import ConfigError, StatisticsError, UnknownNameError
from optimum_grail.patterns import PATTERNS

NAMES = PATTERNS.names()
TWO_OF_FOUR = Pattern(2, 4)


def sums(rows: Tensor, drift: Tensor) -> LinearSums:
    return LinearSums(len(rows), rows.T @ rows, drift.T @ rows)


def problem(seed: int = 0, outputs: int = 6, width: int = 12, drifts: float = 0.3) -> LinearProblem:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mixed = drawn(width, width)
    rows, held = drawn(80, width) @ mixed, drawn(60, width) @ mixed
    lost = drifts * drawn(outputs, width)
    return LinearProblem("layer", drawn(outputs, width), sums(rows, rows @ lost.T), sums(held, held @ lost.T))


def test_sparsegpt_is_the_published_loop() -> None:
    """Column by column, without blocks (Frantar and Alistarh 2023, algorithm 1), in NumPy."""
    given_ = problem(outputs=5, width=16)
    damped = given_.damped(1e-2).numpy()
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    weight = given_.weight.numpy().copy()
    keep = np.ones_like(weight, dtype=bool)
    for column in range(weight.shape[1]):
        if column % 4 == 0:
            cost = weight[:, column : column + 4] ** 2 / np.diag(upper)[column : column + 4] ** 2
            for row, costs in enumerate(cost):
                keep[row, column + np.argsort(costs)[:2]] = False
        error = np.where(keep[:, column], 0.0, weight[:, column]) / upper[column, column]
        weight[:, column:] -= np.outer(error, upper[column, column:])
        weight[~keep[:, column], column] = 0.0
    found = PATTERNS.get("sparsegpt")(damping=1e-2)(given_, TWO_OF_FOUR)
    np.testing.assert_allclose(found.numpy(), weight, rtol=1e-9, atol=1e-12)


def test_wanda_is_weight_times_norm() -> None:
    given_ = problem()
    score = np.abs(given_.weight.numpy()) * np.sqrt(np.diag(given_.fit.gram.numpy()))
    expected = given_.weight.numpy().copy()
    for row in range(len(score)):
        for first in range(0, score.shape[1], 4):
            expected[row, first + np.argsort(score[row, first : first + 4])[:2]] = 0
    np.testing.assert_array_equal(PATTERNS.get("wanda")()(given_, TWO_OF_FOUR).numpy(), expected)


@pytest.mark.parametrize("name", NAMES)
@given(st.integers(0, 99), st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 8)]), st.integers(9, 20))
def test_no_group_has_more_than_its_share(name: str, seed: int, ratio: tuple[int, int], width: int) -> None:
    pattern, given_ = Pattern(*ratio), problem(seed, width=width)
    found = PATTERNS.get(name)()(given_, pattern)
    whole = pattern.whole(width)
    assert ((found[:, :whole].unflatten(1, (-1, pattern.of)) != 0).sum(-1) <= pattern.keep).all()
    assert (found[:, whole:] != 0).all(), "columns beyond the last whole group stay"
    assert torch.isfinite(found).all()


@given(st.integers(0, 99))
def test_settling_ends_at_the_least_squares_of_what_stays(seed: int) -> None:
    given_ = problem(seed)
    damped = given_.damped(1e-2)
    wanted = given_.wanted(damped, 1.0)
    start = surgeon(wanted, damped, TWO_OF_FOUR)
    keep = start != 0
    found = settled(start, wanted, damped, keep, rounds=60)
    for row in range(len(found)):
        kept = keep[row]
        exact = torch.linalg.solve(damped[kept][:, kept], (damped @ wanted[row])[kept])
        torch.testing.assert_close(found[row, kept], exact, rtol=1e-5, atol=1e-7)
    assert (found[~keep] == 0).all()


def test_a_layer_that_fits_the_pattern_is_left_as_it_is() -> None:
    given_ = problem(drifts=0.0)
    sparse = given_.weight * TWO_OF_FOUR.best(given_.weight.abs())
    given_ = LinearProblem("layer", sparse, given_.fit, given_.held)
    for name in ("grail", "sparsegpt"):
        torch.testing.assert_close(PATTERNS.get(name)()(given_, TWO_OF_FOUR), sparse)


@given(st.integers(0, 99))
def test_ours_is_no_worse_than_sparsegpt_on_the_rows_that_judge(seed: int) -> None:
    given_ = problem(seed)
    ours, theirs = (PATTERNS.get(name)()(given_, TWO_OF_FOUR) for name in ("grail", "sparsegpt"))
    assert given_.error(ours) <= given_.error(theirs)


def test_inputs_that_are_never_there_do_no_harm() -> None:
    given_ = problem()
    dead = given_.fit.gram.clone()
    dead[3], dead[:, 3] = 0, 0
    singular = LinearProblem("layer", given_.weight, LinearSums(80, dead, given_.fit.drift), given_.held)
    for name in NAMES:
        assert torch.isfinite(PATTERNS.get(name)()(singular, TWO_OF_FOUR)).all()


def test_sums_that_no_solve_can_use_are_named() -> None:
    given_ = problem()
    with pytest.raises(StatisticsError, match="'layer' saw no calibration rows"):
        LinearProblem("layer", given_.weight, LinearSums(0, given_.fit.gram, given_.fit.drift), given_.held).check()
    with pytest.raises(StatisticsError, match="not finite"):
        bad = LinearSums(1, given_.fit.gram * torch.nan, given_.fit.drift)
        LinearProblem("layer", given_.weight, bad, given_.held).check()


@pytest.mark.parametrize(
    ("settings", "error", "word"),
    [
        ({"pattern": "4:2"}, ConfigError, "pattern is '4:2'; expected N:M"),
        ({"pattern": "0:4"}, ConfigError, "expected N:M"),
        ({"pattern": "2:64"}, ConfigError, "expected N:M"),
        ({"pattern": "half"}, ConfigError, "expected N:M"),
        ({"pattern": "2:4", "pattern_selector": "sparsgpt"}, UnknownNameError, "sparsegpt"),
        ({"pattern": "2:4", "pattern_selector": "grail:rounds=0"}, ConfigError, "rounds is 0"),
        ({"pattern": "2:4", "pattern_selector": "sparsegpt:damping=0"}, ConfigError, "damping is 0"),
        ({"pattern": "2:4", "pattern_selector": "wanda:rounds=3"}, ConfigError, "no option 'rounds'"),
    ],
)
def test_wrong_words_are_refused_by_the_configuration(
    settings: dict[str, Any], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        GrailConfig(**settings).methods()


def test_a_pattern_alone_asks_for_nothing_else() -> None:
    assert GrailConfig(pattern="2:4").resolved().sparsity is None
    assert GrailConfig(pattern="2:4", sparsity=0.3).resolved().sparsity == 0.3
    assert GrailConfig().resolved().sparsity is not None
