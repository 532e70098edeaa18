"""Statistics are sums: of shards, in any order, to float64 precision; what no solve can use is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optimum_grail.core import moments as module
from optimum_grail.core.moments import Moments, MomentSums, Statistics, Subset, TargetMoments, TargetSums, centred
from optimum_grail.errors import StatisticsError

SEEDS = st.integers(0, 2**20)


def assert_same(first: Moments, second: Moments) -> None:
    assert first.count == second.count
    torch.testing.assert_close(first.total, second.total, rtol=0, atol=1e-9)
    torch.testing.assert_close(first.gram, second.gram, rtol=0, atol=1e-9)


@given(seed=SEEDS, pieces=st.integers(1, 6), shuffle=st.randoms())
def test_shards_in_any_order_add_up(build: Callable[..., Any], seed: int, pieces: int, shuffle: Any) -> None:
    case = build(seed)
    shards = [Moments.of(rows) for rows in case.rows.tensor_split(pieces)]
    shuffle.shuffle(shards)
    assert_same(sum(shards, Moments.zero(case.rows.shape[1])), case.moments)
    order = torch.randperm(len(case.rows), generator=torch.Generator().manual_seed(seed))
    assert_same(Moments.of(case.rows[order]), case.moments)


@given(seed=SEEDS)
def test_addition_is_commutative_and_associative_with_a_zero(build: Callable[..., Any], seed: int) -> None:
    case = build(seed)
    a, b, c = (Moments.of(rows) for rows in case.rows.tensor_split(3))
    assert_same(a + b, b + a)
    assert_same((a + b) + c, a + (b + c))
    assert_same(a + Moments.zero(case.rows.shape[1]), a)


@given(seed=SEEDS, folded=st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_addition_takes_offsets_wherever_they_are(
    build: Callable[..., Any], seed: int, folded: tuple[bool, bool, bool]
) -> None:
    """Without an offset nothing was folded: it is zero there, whatever the order."""
    case = build(seed)
    parts, total = [], TargetMoments.zero(case.drift.shape[1], case.rows.shape[1])
    for rows, gap, has in zip(case.rows.tensor_split(3), case.drift.tensor_split(3), folded, strict=True):
        offset = TargetMoments.of(gap, rows) if has else None
        parts.append(replace(Moments.of(rows), offset=offset))
        total = total if offset is None else total + offset
    for one, other, third in permutations(parts):
        for whole in ((one + other) + third, one + (other + third)):
            assert (whole.offset is None) == (not any(folded))
            assert_same(whole, case.moments)
            for name in ("total", "cross", "energy") if whole.offset is not None else ():
                torch.testing.assert_close(getattr(whole.offset, name), getattr(total, name), rtol=0, atol=1e-9)


def test_what_was_summed_up_never_changes_again(build: Callable[..., Any]) -> None:
    case = build(0)
    for sums, arguments in (
        (MomentSums.zero(case.rows.shape[1]), (case.rows,)),
        (TargetSums.zero(case.drift.shape[1], case.rows.shape[1]), (case.drift, case.rows)),
    ):
        sums.add_(*arguments)
        value = sums.taken()
        before = copy.deepcopy(value)
        with pytest.raises(AttributeError):
            sums.add_(*arguments)
        assert torch.equal(value.total, before.total)
        assert torch.equal(value.total, type(value).of(*arguments).total)


@given(seed=SEEDS, pieces=st.integers(1, 5))
def test_target_shards_add_up(build: Callable[..., Any], seed: int, pieces: int) -> None:
    case, whole = build(seed), TargetMoments.zero(1, 1)
    total = TargetMoments.zero(case.drift.shape[1], case.rows.shape[1])
    for drift, rows in zip(case.drift.tensor_split(pieces), case.rows.tensor_split(pieces), strict=True):
        total = total + TargetMoments.of(drift, rows)
    whole = case.target
    for name in ("total", "cross", "energy"):
        torch.testing.assert_close(getattr(total, name), getattr(whole, name), rtol=0, atol=1e-9)
    assert float(whole.energy) == float(case.drift.double().square().sum())


@given(seed=SEEDS, chunk=st.integers(1, 70))
def test_float32_chunks_agree_with_float64(seed: int, chunk: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(200, 7, generator=generator) * torch.logspace(-3, 3, 7) + 1
    drift = torch.randn(200, 3, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_ROWS", chunk)
        found, target = Moments.of(rows), TargetMoments.of(drift, rows)
    exact = rows.double()
    scale = exact.square().sum(0).sqrt()
    torch.testing.assert_close(found.total, exact.sum(0), rtol=1e-12, atol=1e-9)
    assert ((found.gram - exact.T @ exact) / torch.outer(scale, scale)).abs().max() < 1e-6
    error = (target.cross - drift.double().T @ exact) / (drift.double().square().sum(0).sqrt()[:, None] * scale)
    assert error.abs().max() < 1e-6


@given(seed=SEEDS, held=st.booleans(), drift=st.booleans())
def test_statistics_of_the_parts_are_those_of_all_rows(
    build: Callable[..., Any], seed: int, held: bool, drift: bool
) -> None:
    case = build(seed)
    statistics = case.statistics(2 if held else 1, drift)
    assert_same(statistics.moments, case.moments)
    assert (statistics.target is None) != drift
    if statistics.target is not None:
        torch.testing.assert_close(statistics.target.cross, case.target.cross, rtol=0, atol=1e-9)


@given(seed=SEEDS, level=st.floats(0.05, 1e4), noise=st.sampled_from([0.0, 1e-6, 1e-4]))
def test_constant_features_have_no_covariance(seed: int, level: float, noise: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(3000, 16, generator=generator)
    rows[:, :2] = level * (1 + noise * torch.randn(3000, 2, generator=generator))
    moments = Moments.of(rows)
    covariance = moments.covariance(affine=True)
    assert not covariance[:2].any() and not covariance[:, :2].any()
    rest = rows[:, 2:].double()
    expected = (rest - rest.mean(0)).T @ (rest - rest.mean(0))
    torch.testing.assert_close(covariance[2:, 2:], expected, rtol=1e-5, atol=0.05)
    assert torch.equal(covariance, centred(moments.gram, moments.total, moments.count))
    assert torch.equal(moments.covariance(affine=False), moments.gram)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_statistics_that_are_not_finite_name_the_group(value: float) -> None:
    rows = torch.ones(4, 3)
    rows[2, 1] = value
    with pytest.raises(StatisticsError, match=r"layers\.3\.mlp.*not finite"):
        Moments.of(rows).check("layers.3.mlp")
    with pytest.raises(StatisticsError, match=r"layers\.3\.mlp.*not finite"):
        TargetMoments.of(rows, torch.ones(4, 3)).check("layers.3.mlp")


def test_no_rows_at_all_name_the_group() -> None:
    with pytest.raises(StatisticsError, match=r"'heads' saw no calibration rows"):
        Moments.zero(3).check("heads")
    Moments.of(torch.ones(1, 3)).check("heads")
    TargetMoments.zero(1, 3).check("heads")


def test_a_target_without_held_out_part_is_that_of_the_fit_rows() -> None:
    target = TargetMoments.zero(1, 3)
    moments = Moments.of(torch.ones(2, 3))
    assert Statistics((Subset(moments, target),)).target is target
    assert Statistics((Subset(moments), Subset(moments, target))).target is target, "the other has no drift"
