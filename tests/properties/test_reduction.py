"""Pruning and folding as one value: encode, lift, and what must be refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import NormalEquations
from optimum_grail.errors import BudgetError

SEEDS = st.integers(0, 2**20)


def matrix(reduction: Reduction, span: int) -> tuple[Tensor, Tensor]:
    """``E`` and the 0/1 membership ``M``, written out: ``[slots * span, units * span]``."""
    member = torch.zeros(reduction.slots, len(reduction.assignment), dtype=torch.float64)
    for unit, slot in enumerate(reduction.assignment.tolist()):
        if slot >= 0:
            member[slot, unit] = 1.0
    eye = torch.eye(span, dtype=torch.float64)
    return torch.kron(member * reduction.weight, eye), torch.kron(member, eye)


@given(seed=SEEDS, fold=st.booleans())
def test_encode_and_lift_are_their_matrices(build: Callable[..., Any], seed: int, fold: bool) -> None:
    case = build(seed)
    reduction = case.reduction(fold)
    span = case.rows.shape[1] // case.units
    encode, member = matrix(reduction, span)
    rows, weight = case.rows.double().T, case.weight
    torch.testing.assert_close(reduction.encode_rows(rows, span), encode @ rows)
    torch.testing.assert_close(reduction.encode_columns(weight, span), weight @ encode.T)
    torch.testing.assert_close(reduction.lift_columns(weight, span), weight @ member.T)
    gram = case.moments.gram
    half = reduction.encode_columns(reduction.encode_rows(gram, span), span)
    torch.testing.assert_close(half, encode @ gram @ encode.T)


@given(seed=SEEDS)
def test_pruning_gathers_exactly_and_in_order(build: Callable[..., Any], seed: int) -> None:
    case = build(seed)
    reduction = case.reduction()
    assert reduction.is_selection and reduction.slots == len(case.keep)
    assert reduction.kept.tolist() == sorted(case.keep.tolist())
    span = case.rows.shape[1] // case.units
    columns = [unit * span + offset for unit in reduction.kept.tolist() for offset in range(span)]
    assert torch.equal(reduction.encode_columns(case.rows, span), case.rows[:, columns])
    assert torch.equal(reduction.lift_columns(case.weight, span), case.weight[:, columns])
    half = case.rows.to(torch.bfloat16)
    assert reduction.encode_columns(half, span).dtype == torch.bfloat16


@given(units=st.integers(1, 9), span=st.integers(1, 3))
def test_keeping_everything_is_the_identity(units: int, span: int) -> None:
    whole = Reduction.keep_all(units)
    rows = torch.randn(units * span, 2)
    assert whole.is_identity and torch.equal(whole.encode_rows(rows, span), rows)
    assert Reduction.fold(torch.arange(units)).is_identity
    assert units == 1 or not Reduction.prune(units, torch.arange(1, units)).is_identity


@given(seed=SEEDS)
def test_exact_duplicates_fold_without_loss(build: Callable[..., Any], seed: int) -> None:
    case = build(seed)
    span = case.rows.shape[1] // case.units
    clusters = case.clusters.tolist()
    first = [clusters.index(cluster) for cluster in clusters]
    rows = case.rows.unflatten(1, (case.units, span))[:, first].flatten(1)
    reduction = Reduction.fold(case.clusters)
    same = reduction.encode_columns(rows.double(), span) @ reduction.lift_columns(case.weight, span).T
    torch.testing.assert_close(same, rows.double() @ case.weight.T)
    alike = type(case)(case.units, rows, case.drift, case.weight, case.keep, case.clusters)
    equations = NormalEquations.of(case.weight, alike.moments, None, reduction)
    assert equations.loss(equations.plain) <= 1e-9 * equations.energy


@pytest.mark.parametrize("keep", [[], [0, 0], [3], [-1], [0, 1, 2, 3]])
def test_impossible_selections_are_refused(keep: list[int]) -> None:
    with pytest.raises(BudgetError, match="of 3"):
        Reduction.prune(3, torch.tensor(keep, dtype=torch.int64))


@pytest.mark.parametrize("clusters", [[0, 2, 0], [-1, 0, 1]])
def test_impossible_foldings_are_refused(clusters: list[int]) -> None:
    with pytest.raises(BudgetError, match="cluster"):
        Reduction.fold(torch.tensor(clusters))
