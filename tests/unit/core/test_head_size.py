"""Dimensions inside heads: which pairs stay, and what values turn into."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from optimum_grail.core.head_size import (
    HeadReduction,
    choose_pairs,
    dimensions_of,
    fewer_dimensions,
    turn_values,
)
from optimum_grail.core.moments import Moments

HEADS, GROUPS, WHOLE, OUT = 6, 3, 8, 20


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(rows: int = 400, rank: int = WHOLE) -> Tensor:
    """What enters the consumer, head by head: each head's in a subspace of so many dimensions, of uneven strength."""
    strength = torch.linspace(3, 0.2, rank, dtype=torch.float64)
    parts = [drawn(rows, rank, seed=h) * strength @ drawn(rank, WHOLE, seed=50 + h // 2) for h in range(HEADS)]
    return torch.cat(parts, 1)


def met(rows: Tensor, weight: Tensor, size: int) -> Tensor:
    """The consumer's output through ``size`` dimensions of the values, not refitted."""
    values, outputs = turn_values(Moments.of(rows), weight, WHOLE, GROUPS, size, affine=False)
    narrow = torch.einsum("nhk,hdk->nhd", rows.view(-1, HEADS, WHOLE), values.repeat_interleave(2, 0))
    columns = torch.einsum("ohk,hkd->ohd", weight.view(OUT, HEADS, WHOLE), outputs)
    return torch.einsum("nhd,ohd->no", narrow, columns)


def test_all_dimensions_are_only_turned() -> None:
    rows, weight = features(), drawn(OUT, HEADS * WHOLE, seed=9)
    values, _ = turn_values(Moments.of(rows), weight, WHOLE, GROUPS, WHOLE, affine=False)
    assert torch.allclose(values @ values.mT, torch.eye(WHOLE, dtype=torch.float64).expand(GROUPS, -1, -1), atol=1e-10)
    assert torch.allclose(met(rows, weight, WHOLE), rows @ weight.T, atol=1e-8)


def test_dimensions_in_which_nothing_moves_go_for_free() -> None:
    """The moments are singular then."""
    rows, weight = features(rank=4), drawn(OUT, HEADS * WHOLE, seed=9)
    assert torch.allclose(met(rows, weight, 4), rows @ weight.T, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(met(rows, weight, 2), rows @ weight.T, rtol=1e-2, atol=1e-2)


def test_heads_that_put_out_nothing_do_no_harm() -> None:
    rows = features()
    rows[:, : 2 * WHOLE] = 0
    values, outputs = turn_values(Moments.of(rows), drawn(OUT, HEADS * WHOLE), WHOLE, GROUPS, 4, affine=True)
    assert bool(torch.isfinite(values).all()) and bool(torch.isfinite(outputs).all())


def test_the_subspace_is_the_best_where_no_values_are_shared() -> None:
    """One query head per key-value head: no random subspace of the same size does better after its own refit."""
    rows, weight = features()[:, :WHOLE], drawn(OUT, WHOLE, seed=9)
    values, outputs = turn_values(Moments.of(rows), weight, WHOLE, 1, 3, affine=False)

    def error(encode: Tensor) -> float:
        narrow = rows @ encode.T
        return float((narrow @ torch.linalg.lstsq(narrow, rows @ weight.T).solution - rows @ weight.T).square().sum())

    assert error(values[0]) == pytest.approx(
        float((rows @ values[0].T @ outputs[0].T @ weight.T - rows @ weight.T).square().sum()), rel=1e-6
    )
    assert all(error(values[0]) < error(drawn(3, WHOLE, seed=seed)) for seed in range(20))


def test_means_are_left_to_the_bias_where_there_is_one() -> None:
    rows, weight = features()[:, :WHOLE] * 0.1, drawn(OUT, WHOLE, seed=9)
    rows += 5 * drawn(1, WHOLE, seed=4)
    centred, _ = turn_values(Moments.of(rows), weight, WHOLE, 1, 2, affine=True)
    shifted, _ = turn_values(Moments.of(rows - rows.mean(0)), weight, WHOLE, 1, 2, affine=False)
    assert torch.allclose(centred.mT @ centred, shifted.mT @ shifted, atol=1e-3)


def test_pairs_that_are_missed_least_go() -> None:
    damages = torch.tensor([0.3, 0.1, 0.5, 0.1], dtype=torch.float64)
    assert choose_pairs(damages, 3).tolist() == [0, 1, 2], "of equals the slowest"
    assert choose_pairs(damages, 2).tolist() == [0, 2]
    assert choose_pairs(damages, 4).tolist() == [0, 1, 2, 3]
    assert choose_pairs(damages, 1).tolist() == [2]


@pytest.mark.parametrize(("whole", "fraction", "kept"), [(64, 0.25, 48), (16, 0.3, 12), (8, 0.99, 2), (64, 0.01, 64)])
def test_head_sizes_are_even(whole: int, fraction: float, kept: int) -> None:
    assert fewer_dimensions(whole, fraction) == kept


def test_a_reduction_knows_its_sizes() -> None:
    found = HeadReduction(torch.tensor([0, 2]), torch.zeros(1, 4, 8), torch.zeros(2, 8, 4))
    assert (found.size, found.whole) == (4, 8) and found.gain == pytest.approx(0.5**0.5)
    assert found.dimensions.tolist() == dimensions_of(found.pairs, 8).tolist() == [0, 2, 4, 6]
