"""Scores from gradients against NumPy transcriptions."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from optimum_grail.errors import StatisticsError
from optimum_grail.selectors.fisher import Fisher
from optimum_grail.selectors.snip import Snip
from optimum_grail.selectors.taylor import Taylor
from optimum_grail.selectors.wandapp import Wandapp


def ascending(scores: Any) -> list[int]:
    return np.argsort(scores, kind="stable").tolist()


def test_taylor(sample: Any) -> None:
    assert Taylor()(sample.problem(), 3).order.tolist() == ascending(np.abs(sample.gradients[0]).mean(0))


def test_snip(sample: Any) -> None:
    assert Snip()(sample.problem(), 3).order.tolist() == ascending(np.abs(sample.gradients[0].sum(0)))


@pytest.mark.parametrize("keep", [1, 3, 6])
def test_fisher_diagonal(sample: Any, keep: int) -> None:
    score = (sample.gradients[0] ** 2).sum(0)
    assert Fisher(rearrange=False)(sample.problem(), keep).order.tolist() == ascending(score)[: sample.units - keep]


@pytest.mark.parametrize("keep", [1, 3, 6])
def test_fisher_rearranged(sample: Any, keep: int) -> None:
    """The authors' greedy search, literally."""
    g = sample.gradients[0].T
    order = ascending((g**2).sum(1))
    gone = order[: sample.units - keep]
    for unit in order[sample.units - keep :]:
        gone.append(unit)
        vectors = g[gone]
        complement = vectors.sum(0) - vectors
        del gone[int((complement**2).sum(1).argmin())]
    assert sorted(Fisher()(sample.problem(), keep).order.tolist()) == sorted(gone)
    length = [float((g[chosen].sum(0) ** 2).sum()) for chosen in (gone, order[: sample.units - keep])]
    assert length[0] <= length[1]


@pytest.mark.parametrize("alpha", [1e-3, 100.0])
def test_wandapp(sample: Any, alpha: float) -> None:
    """``(α sqrt(mean_n (∂L/∂W)²) + ‖x_j‖₂) |W_ij|``, averaged over outputs, summed over a head."""
    score = ((alpha * sample.gradients[1] + np.linalg.norm(sample.s, axis=0)) * np.abs(sample.w)).mean(0)
    expected = ascending(score.reshape(-1, sample.span).sum(1))
    assert Wandapp(alpha)(sample.problem(), 3).order.tolist() == expected


@pytest.mark.parametrize("selector", [Taylor(), Snip(), Fisher(), Wandapp()], ids=lambda item: type(item).__name__)
def test_gradients_that_nobody_measured_are_named(sample: Any, selector: Any) -> None:
    bare = dataclasses.replace(sample.problem(), mask_gradients=None, block_gradients=None)
    with pytest.raises(StatisticsError, match=r"'g' has no (mask|block) gradients"):
        selector(bare, 3)
