"""NumPy transcriptions of published scores against ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from optimum_grail.core.problem import GroupProblem
from optimum_grail.selectors.magnitude import Magnitude
from optimum_grail.selectors.obs import Obs
from optimum_grail.selectors.wanda import Wanda


def top(scores: Any, keep: int) -> list[int]:
    return sorted(np.argsort(-scores, kind="stable")[:keep].tolist())


@pytest.mark.parametrize("keep", [1, 4, 8])
def test_wanda_sp(sample: Any, keep: int) -> None:
    """``mean_o |W_oh| sqrt(E s_h²)``, summed over the features of a head."""
    score = np.abs(sample.w).mean(0) * np.sqrt((sample.s**2).mean(0))
    selection = Wanda()(sample.problem(), keep)
    assert selection.reduction.kept.tolist() == top(score.reshape(-1, sample.span).sum(1), keep)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("side", ["producer", "consumer", "coupled"])
def test_magnitude(sample: Any, p: int, side: str) -> None:
    columns = sample.w.reshape(len(sample.w), sample.units, sample.span).transpose(1, 0, 2).reshape(sample.units, -1)
    scores = {"producer": np.linalg.norm(sample.p, p, 1), "consumer": np.linalg.norm(columns, p, 1)}
    scores["coupled"] = scores["producer"] * scores["consumer"]
    selection = Magnitude(p, side)(sample.problem(), 4)
    assert selection.reduction.kept.tolist() == top(scores[side], 4)
    assert selection.order.tolist() == np.argsort(scores[side]).tolist()


def test_magnitude_of_several_producers_is_that_of_all_their_rows(sample: Any) -> None:
    """Gate and up projection count as one: the L1 norm of a filter group (Li et al. 2017)."""
    other = np.random.default_rng(1).standard_normal((sample.units, 3))
    producers = (torch.from_numpy(sample.p), torch.from_numpy(other))
    problem = GroupProblem("g", sample.units, torch.from_numpy(sample.w), producers)
    score = np.abs(sample.p).sum(1) + np.abs(other).sum(1)
    assert Magnitude()(problem, 3).reduction.kept.tolist() == top(score, 3)


@pytest.mark.parametrize("affine", [False, True])
def test_first_removal_of_obs_is_the_least_surgeon_score(sample: Any, affine: bool) -> None:
    """``tr(W_S [(M⁻¹)_SS]⁻¹ W_Sᵀ)`` (ZipLM, SlimGPT); the error told is relative to dropping everything."""
    centre = sample.s - sample.s.mean(0) * affine
    gram, span = centre.T @ centre, sample.span
    q = np.linalg.inv(gram + 1e-3 * np.diag(np.diag(gram)))
    scores = []
    for unit in range(sample.units):
        strip = slice(unit * span, (unit + 1) * span)
        scores.append(np.trace(sample.w[:, strip] @ np.linalg.inv(q[strip, strip]) @ sample.w[:, strip].T))
    selection = Obs()(sample.problem(owns_bias=affine), sample.units - 1)
    assert selection.order.tolist() == [int(np.argmin(scores))]
    assert float(selection.curve[-1]) == pytest.approx(min(scores) / np.trace(sample.w @ gram @ sample.w.T), rel=1e-6)
