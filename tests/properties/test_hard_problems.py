"""Singular, rank-deficient, dead and badly scaled statistics: never a crash, never a number that is not finite."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optimum_grail.compensators import COMPENSATORS
from optimum_grail.core.elimination import eliminate
from optimum_grail.core.linalg import factorise
from optimum_grail.core.moments import Moments, Statistics, Subset, TargetMoments
from optimum_grail.core.problem import GroupProblem
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.routing import Routing
from optimum_grail.core.solve import NormalEquations
from optimum_grail.selectors import SELECTORS

UNITS = 6
SEEDS = st.integers(0, 2**20)
HARD = st.fixed_dictionaries(
    {
        "rank": st.integers(0, 12),
        "count": st.sampled_from([1, 2, 5, 60]),
        "scale": st.sampled_from([1e-18, 1e-9, 1.0, 1e9]),
        "spread": st.sampled_from([0, 3, 8]),
        "dead": st.integers(0, UNITS),
        "offset": st.sampled_from([0.0, 1.0, 1e4]),
    }
)


def hard_rows(seed: int, span: int, how: dict[str, Any]) -> Tensor:
    """Float32 rows of low rank, with dead units, features of very different scales, and a large common mean."""
    generator = torch.Generator().manual_seed(seed)
    width = UNITS * span
    rows = torch.randn(how["count"], how["rank"], generator=generator) @ torch.randn(
        how["rank"], width, generator=generator
    )
    rows = (
        (rows + how["offset"]) * how["scale"] * 10 ** (how["spread"] * (torch.rand(width, generator=generator) - 0.5))
    )
    rows.unflatten(1, (UNITS, span))[:, : how["dead"]] = 0
    return rows


def hard_problem(seed: int, span: int, how: dict[str, Any], affine: bool) -> GroupProblem:
    generator = torch.Generator().manual_seed(seed + 1)
    rows = hard_rows(seed, span, how)
    weight = torch.randn(3, UNITS * span, generator=generator, dtype=torch.float64)
    drift = torch.randn(len(rows), 3, generator=generator) * how["scale"]
    moments, target = Moments.of(rows), TargetMoments.of(drift, rows)
    return GroupProblem(
        "g",
        UNITS,
        weight,
        (),
        Statistics((Subset(moments, target),) * 2),
        owns_bias=affine,
        mask_gradients=torch.randn(how["count"], UNITS, generator=generator, dtype=torch.float64) * how["scale"],
        block_gradients=torch.rand(weight.shape, generator=generator, dtype=torch.float64) * how["scale"],
    )


def finite(*tensors: Tensor | None) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor is not None)


@given(
    seed=SEEDS, span=st.integers(1, 2), how=HARD, affine=st.booleans(), ridge=st.sampled_from([0.0, 1e-9, 1e-3, 1.0])
)
def test_every_fit_is_finite(seed: int, span: int, how: dict[str, Any], affine: bool, ridge: float) -> None:
    problem = hard_problem(seed, span, how, affine)
    for keep in (1, UNITS - 1, UNITS):
        equations = NormalEquations.of(
            problem.weight,
            problem.measured.moments,
            problem.measured.target,
            Reduction.prune(UNITS, torch.arange(keep)),
        )
        for anchor in ("zero", "naive"):
            for scale in ("diagonal", "mean"):
                family = equations.fit(ridge, scale, anchor, affine)
                readout = family.at(family.losses(equations).best)
                assert finite(readout.weight, readout.bias)
                assert equations.loss(readout) >= 0


@given(seed=SEEDS, span=st.integers(1, 2), how=HARD, affine=st.booleans())
def test_every_elimination_ends_with_finite_errors(seed: int, span: int, how: dict[str, Any], affine: bool) -> None:
    problem = hard_problem(seed, span, how, affine)
    gram = problem.measured.moments.covariance(affine)
    found = eliminate(problem.weight, gram, UNITS, UNITS - 1, 1e-3)
    assert sorted(found.order.tolist()) == sorted(set(found.order.tolist())) and len(found.order) == UNITS - 1
    assert finite(found.errors) and bool((found.errors.diff() >= 0).all())


@settings(max_examples=15)
@given(seed=SEEDS, how=HARD, affine=st.booleans(), keep=st.integers(1, UNITS))
def test_every_pair_of_methods_is_finite(seed: int, how: dict[str, Any], affine: bool, keep: int) -> None:
    problem = hard_problem(seed, 2, how, affine)
    nothing = torch.zeros(UNITS, dtype=torch.float64)
    problem = replace(problem, routing=Routing(nothing, nothing, nothing, 0))  # of experts that no token was sent to
    for _, selector in SELECTORS:
        selection = selector()(problem, keep)
        assert selection.reduction.slots == keep
        for _, compensator in COMPENSATORS:
            readout = compensator()(problem, selection.reduction).readout
            assert finite(readout.weight, readout.bias)


@given(seed=SEEDS, rank=st.integers(0, 8), ridge=st.sampled_from([0.0, 1e-6, 1.0]))
def test_solutions_reproduce_right_hand_sides_in_the_range(seed: int, rank: int, ridge: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(8, rank, generator=generator, dtype=torch.float64)
    matrix = factor @ factor.T
    wanted = torch.randn(2, 8, generator=generator, dtype=torch.float64) @ matrix
    solution = factorise(matrix, ridge, "diagonal").solve(wanted)
    again = solution @ (matrix + ridge * torch.diag(matrix.diagonal()))
    torch.testing.assert_close(again, wanted, rtol=1e-3, atol=1e-3)


def test_a_hopeless_matrix_falls_back_to_eigenvalues() -> None:
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[0, 1] = matrix[1, 0] = -1e9  # far from positive: no ridge that is tried can help
    factor = factorise(matrix, 0.0, "diagonal")
    assert factor.inverse and finite(factor.solve(torch.ones(2, 3, dtype=torch.float64)))


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_an_empty_system_solves_to_zero(ridge: float) -> None:
    factor = factorise(torch.zeros(4, 4, dtype=torch.float64), ridge)
    assert not factor.solve(torch.ones(2, 4, dtype=torch.float64)).any()
