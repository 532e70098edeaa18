"""What the algebra promises of every selector in the registry, new files included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optimum_grail.core.moments import Moments, Statistics, Subset
from optimum_grail.core.problem import GroupProblem
from optimum_grail.selectors import SELECTORS
from optimum_grail.selectors.obs import Obs
from optimum_grail.selectors.osscar import Osscar
from optimum_grail.selectors.schur import Schur
from optimum_grail.selectors.slimgpt import Slimgpt
from optimum_grail.selectors.ziplm import Ziplm

Build = Callable[..., Any]
SEEDS = st.integers(0, 2**20)
GREEDY = [Obs(), Ziplm(), Slimgpt(share=1e-9), Osscar(step=1), Schur()]
"""Those that look again after every unit."""


@given(seed=SEEDS, owns_bias=st.booleans())
@settings(max_examples=15)
def test_what_stays_is_untouched_by_removing_the_others(build: Build, seed: int, owns_bias: bool) -> None:
    """Units only see themselves before the consumer: slicing the producers first or last is the same."""
    case = build(seed)
    span = case.rows.shape[1] // case.units
    gate, up = case.rows.T.double(), case.rows.flip(0).T.double()
    for name, selector in SELECTORS:
        reduction = selector()(case.problem(owns_bias), len(case.keep)).reduction
        if not reduction.is_selection:
            continue
        sliced = [reduction.encode_rows(part, span) for part in (gate, up)]
        before, after = torch.nn.functional.silu(sliced[0]) * sliced[1], torch.nn.functional.silu(gate) * up
        assert torch.equal(before, reduction.encode_rows(after, span)), name


@given(seed=SEEDS)
@settings(max_examples=15)
def test_the_order_of_the_rows_and_their_batches_does_not_matter(build: Build, seed: int) -> None:
    case = build(seed)
    shuffled = case.rows[torch.randperm(len(case.rows), generator=torch.Generator().manual_seed(seed))]
    cut = len(shuffled) // 3
    streamed = sum((Moments.of(part) for part in shuffled.split(cut)), Moments.zero(shuffled.shape[1]))
    problem = case.problem(parts=1)
    other = replace(problem, statistics=Statistics((Subset(streamed),)))
    for name, selector in SELECTORS:
        first, second = (selector()(item, len(case.keep)).reduction for item in (problem, other))
        assert torch.equal(first.assignment, second.assignment), name


@given(seed=SEEDS, factor=st.sampled_from([1e-6, 1e-2, 1e4]))
@settings(max_examples=15)
def test_the_units_of_measurement_do_not_matter(build: Build, seed: int, factor: float) -> None:
    """Larger features with smaller weights, or louder gradients, are the same problem."""
    case = build(seed)
    problem = case.problem(parts=1)
    moments = problem.measured.moments
    scaled = Moments(moments.count, factor * moments.total, factor**2 * moments.gram)
    other = replace(
        problem,
        weight=problem.weight / factor,
        producers=tuple(factor * rows for rows in problem.producers),
        statistics=Statistics((Subset(scaled),)),
        mask_gradients=factor * problem.mask_gradients,
        block_gradients=factor * problem.block_gradients,
    )
    for name, selector in SELECTORS:
        if name == "folding":
            continue  # compares rows with columns, which only a scale of their own relates
        first, second = (selector()(item, len(case.keep)).reduction for item in (problem, other))
        assert torch.equal(first.assignment, second.assignment), name


@pytest.mark.parametrize("selector", GREEDY, ids=lambda item: type(item).__name__)
@given(seed=SEEDS, span=st.integers(1, 3))
@settings(max_examples=15)
def test_of_two_duplicates_one_always_stays(selector: Any, seed: int, span: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    half = 5
    rows = torch.randn(400, half * span, generator=generator)
    weight = 1 + torch.rand(3, 2 * half * span, generator=generator, dtype=torch.float64)
    twins = Moments.of(torch.cat([rows, rows], 1))  # unit u + half is unit u again
    kept = selector(GroupProblem("g", 2 * half, weight, (), Statistics((Subset(twins),))), half).reduction.kept
    assert sorted(unit % half for unit in kept.tolist()) == list(range(half))


def damped(selector: Any, gram: Tensor) -> Tensor:
    ridge = gram.diagonal() if isinstance(selector, Obs) else gram.diagonal().mean().expand(len(gram))
    return gram + selector.damping * torch.diag(ridge)


def damped_loss(weight: Tensor, gram: Tensor, gone: list[int], span: int) -> float:
    """``tr(W_D S_D W_Dᵀ)`` by the definition of the conditional second moment."""
    dead = [unit * span + offset for unit in gone for offset in range(span)]
    kept = [column for column in range(len(gram)) if column not in dead]
    rest = gram[dead][:, dead] - gram[dead][:, kept] @ torch.linalg.solve(gram[kept][:, kept], gram[kept][:, dead])
    return float(((weight[:, dead] @ rest) * weight[:, dead]).sum())


@given(seed=SEEDS, owns_bias=st.booleans())
@settings(max_examples=15)
def test_an_error_curve_never_falls_and_holds_at_every_width(build: Build, seed: int, owns_bias: bool) -> None:
    """And its end is the damped loss of the least-squares weights: the greedy scores add up to it."""
    case = build(seed)
    problem = case.problem(owns_bias)
    span, moments = problem.span, problem.measured.moments
    told = 0
    for name, selector in SELECTORS:
        chooser = selector()
        selection = chooser(problem, 1)
        if selection.curve is None or selection.order is None:
            continue
        told += 1
        plain = moments.covariance(owns_bias and name == "obs")
        gram = damped(chooser, plain)
        whole = plain if name == "obs" else gram
        total = float(((problem.weight @ whole) * problem.weight).sum())
        assert len(selection.curve) == case.units and bool((selection.curve.diff() >= -1e-9).all()), name
        for gone in range(case.units):
            loss = damped_loss(problem.weight, gram, selection.order[:gone].tolist(), span) / total
            assert float(selection.curve[gone]) == pytest.approx(loss, rel=1e-7, abs=1e-9), name
    assert told >= 3
