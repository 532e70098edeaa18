"""Greedy elimination: exact losses, the naive transcription, duplicates, and the panel's boundary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optimum_grail.core.elimination import PANEL, ROWS, eliminate, shrunk_
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import NormalEquations

Build = Callable[..., Any]
SEEDS = st.integers(0, 2**20)


def columns_of(units: list[int], span: int) -> list[int]:
    return [unit * span + offset for unit in units for offset in range(span)]


def damped(gram: Tensor, damping: float) -> Tensor:
    return gram + damping * torch.diag(gram.diagonal())


def refit_loss(weight: Tensor, gram: Tensor, gone: list[int], span: int) -> float:
    """``tr(W_D S_D W_Dᵀ)`` of a (damped) Gram, by the definition of the conditional second moment."""
    dead = columns_of(gone, span)
    kept = [column for column in range(weight.shape[1]) if column not in dead]
    part = weight[:, dead]
    rest = gram[dead][:, dead]
    if kept:
        rest = rest - gram[dead][:, kept] @ torch.linalg.solve(gram[kept][:, kept], gram[kept][:, dead])
    return float(((part @ rest) * part).sum())


def greedy(weight: Tensor, gram: Tensor, units: int, remove: int) -> tuple[list[int], list[float]]:
    """Remove the unit whose absence leaves the least refit loss, computed afresh for every candidate."""
    span, gone, losses = weight.shape[1] // units, [], [0.0]
    for _ in range(remove):
        costs = {u: refit_loss(weight, gram, [*gone, u], span) for u in range(units) if u not in gone}
        gone.append(min(costs, key=lambda unit: costs[unit]))
        losses.append(costs[gone[-1]])
    return gone, losses


def one_by_one(weight: Tensor, gram: Tensor, remove: int) -> tuple[list[int], list[float]]:
    """The optimal brain surgeon as written in the papers: inverse and weights updated after every removal."""
    weight, inverse = weight.clone(), torch.linalg.inv(gram)
    alive, order, losses = list(range(len(gram))), [], [0.0]
    for _ in range(remove):
        scores = weight[:, alive].square().sum(0) / inverse.diagonal()[alive]
        unit = alive.pop(int(scores.argmin()))
        order.append(unit)
        losses.append(losses[-1] + float(scores.min()))
        row = inverse[unit] / inverse[unit, unit]
        weight -= torch.outer(weight[:, unit], row)
        inverse -= torch.outer(inverse[:, unit], row)
    return order, losses


@given(seed=SEEDS, affine=st.booleans(), damping=st.sampled_from([1e-6, 1e-3, 1e-1]))
def test_every_step_is_the_best_and_its_error_is_the_refit_loss(
    build: Build, seed: int, affine: bool, damping: float
) -> None:
    case = build(seed)
    gram = case.moments.covariance(affine)
    found = eliminate(case.weight, gram, case.units, case.units - 1, damping)
    order, losses = greedy(case.weight, damped(gram, damping), case.units, case.units - 1)
    torch.testing.assert_close(found.errors, torch.tensor(losses, dtype=torch.float64), rtol=1e-7, atol=1e-9)
    assert found.order.tolist() == order
    assert found.total == pytest.approx(float(((case.weight @ gram) * case.weight).sum()))


@given(seed=SEEDS, damping=st.sampled_from([1e-6, 1e-3, 1e-1]))
def test_the_curve_never_falls_and_holds_at_every_width(build: Build, seed: int, damping: float) -> None:
    case = build(seed)
    gram, span = case.moments.gram, case.rows.shape[1] // case.units
    found = eliminate(case.weight, gram, case.units, case.units - 1, damping)
    assert len(found.errors) == case.units and len(found.order) == case.units - 1
    assert found.errors[0] == 0
    assert bool((found.errors.diff() >= -1e-9 * max(found.total, 1e-300)).all())
    for gone in range(case.units):
        loss = refit_loss(case.weight, damped(gram, damping), found.order[:gone].tolist(), span)
        assert float(found.errors[gone]) == pytest.approx(loss, rel=1e-7, abs=1e-9)


@given(seed=SEEDS, fewer=st.integers(1, 3))
def test_a_shorter_run_is_the_beginning_of_a_longer_one(build: Build, seed: int, fewer: int) -> None:
    case = build(seed)
    whole = eliminate(case.weight, case.moments.gram, case.units, case.units - 1, 1e-3)
    part = eliminate(case.weight, case.moments.gram, case.units, max(case.units - 1 - fewer, 0), 1e-3)
    assert torch.equal(part.order, whole.order[: len(part.order)])
    torch.testing.assert_close(part.errors, whole.errors[: len(part.errors)])


@given(seed=SEEDS, affine=st.booleans())
def test_the_error_is_the_penalised_loss_of_the_readout(build: Build, seed: int, affine: bool) -> None:
    """One-shot ridge towards plain pruning and greedy elimination are the same problem, to the last digit."""
    case, damping = build(seed), 1e-2
    gram = case.moments.covariance(affine)
    found = eliminate(case.weight, gram, case.units, case.units - len(case.keep), damping)
    gone = set(found.order.tolist())
    keep = torch.tensor([unit for unit in range(case.units) if unit not in gone])
    equations = NormalEquations.of(case.weight, case.moments, None, Reduction.prune(case.units, keep))
    readout = equations.fit(damping, "diagonal", "naive", affine).at(0.0)
    span = case.rows.shape[1] // case.units
    kept = columns_of(keep.tolist(), span)
    change = torch.zeros_like(case.weight)
    change[:, kept] = readout.weight
    change -= case.weight  # kept columns move against their penalty, dropped ones by all they are
    penalised = equations.loss(readout) + damping * float((change.square() * gram.diagonal()).sum())
    assert float(found.errors[-1]) == pytest.approx(penalised, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("units", [PANEL - 1, PANEL, PANEL + 1, 2 * PANEL + 13])
def test_panels_equal_one_by_one(units: int) -> None:
    generator = torch.Generator().manual_seed(units)
    factor = torch.randn(units, units, generator=generator, dtype=torch.float64)
    gram = factor @ factor.T / units + 0.1 * torch.eye(units, dtype=torch.float64)
    weight = torch.randn(9, units, generator=generator, dtype=torch.float64)
    found = eliminate(weight, gram, units, units - 1, 1e-4)
    order, losses = one_by_one(weight, damped(gram, 1e-4), units - 1)
    assert found.order.tolist() == order
    torch.testing.assert_close(found.errors, torch.tensor(losses, dtype=torch.float64), rtol=1e-7, atol=1e-9)


@given(seed=SEEDS, span=st.integers(1, 3), damping=st.sampled_from([1e-6, 1e-3]))
def test_of_two_duplicates_one_always_stays(seed: int, span: int, damping: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    half = 5
    rows = torch.randn(400, half * span, generator=generator, dtype=torch.float64)
    weight = 1 + torch.rand(3, 2 * half * span, generator=generator, dtype=torch.float64)
    twins = torch.cat([rows, rows], 1)  # unit u + half is unit u again
    found = eliminate(weight, twins.T @ twins, 2 * half, half, damping)
    assert sorted(unit % half for unit in found.order.tolist()) == list(range(half))
    assert float(found.errors[-1]) < 10 * damping * found.total


@given(seed=SEEDS, span=st.integers(1, 3), dead=st.integers(1, 5))
def test_dead_units_go_first_and_cost_nothing(seed: int, span: int, dead: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    units = 6
    rows = torch.randn(100, units * span, generator=generator, dtype=torch.float64)
    gone = torch.randperm(units, generator=generator)[:dead].sort().values
    rows.unflatten(1, (units, span))[:, gone] = 0
    weight = torch.randn(2, units * span, generator=generator, dtype=torch.float64)
    found = eliminate(weight, rows.T @ rows, units, units - 1, 1e-3)
    assert found.order[:dead].tolist() == gone.tolist()
    assert not found.errors[: dead + 1].any()
    fewer = eliminate(weight, rows.T @ rows, units, 1, 1e-3)
    assert fewer.order.tolist() == gone.tolist()[:1] and fewer.errors.tolist() == [0, 0]


@pytest.mark.parametrize("outputs", [1, 2, 40])
def test_fewer_outputs_than_features_or_more(outputs: int) -> None:
    """Only ``WᵀW`` is looked at, which has no more rank than the consumer has outputs."""
    generator = torch.Generator().manual_seed(outputs)
    units = PANEL + 9
    factor = torch.randn(2 * units, units, generator=generator, dtype=torch.float64)
    gram = factor.T @ factor / units
    weight = torch.randn(outputs, units, generator=generator, dtype=torch.float64)
    found = eliminate(weight, gram, units, units - 1, 1e-3)
    order, losses = one_by_one(weight, damped(gram, 1e-3), units - 1)
    assert found.order.tolist() == order
    torch.testing.assert_close(found.errors, torch.tensor(losses, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("units", [5, ROWS, ROWS + 1, 2 * ROWS + 7])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.97, 1.0])
def test_a_matrix_shrinks_where_it_is(units: int, share: float) -> None:
    generator = torch.Generator().manual_seed(units)
    matrix = torch.randn(units, units, generator=generator, dtype=torch.float64)
    stay = torch.nonzero(torch.rand(units, generator=generator) <= share).flatten()
    expected, place = matrix[stay][:, stay], matrix.data_ptr()
    found = shrunk_(matrix, stay)
    assert torch.equal(found, expected)
    assert not len(stay) or found.data_ptr() == place
