"""Fluctuation of features around their mean, standardised so that units of all groups can be compared (FLAP, An et al.
2024, "Fluctuation-based Adaptive Structured Pruning", and the authors' code)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from optimum_grail.core.moments import PRECISION, Moments
from optimum_grail.core.problem import GroupProblem

FluctuationMetric = Literal["wifv", "wifn", "ifv"]


def variances(moments: Moments) -> Tensor:
    """``E s² - (E s)²`` per feature, float64, shape ``[F]``; zero where that is mere rounding of the products."""
    count = max(moments.count, 1)
    energy = moments.energy / count
    variance = energy - (moments.total / count).square()
    return torch.where(variance > PRECISION * energy, variance, torch.zeros_like(variance))


def fluctuation(problem: GroupProblem, metric: FluctuationMetric = "wifv") -> Tensor:
    """Standardised score of every unit, to be compared across groups; float64, shape ``[units]``.

    Args:
        problem: the group, with statistics.
        metric: per feature ``h``: ``"wifv"`` is ``Var(s_h) ‖W_h‖²``, ``"ifv"`` ``Var(s_h)``, ``"wifn"``
            ``mean_o |W_oh| · sqrt(E s_h²)``.

    The features of a group are standardised to mean zero and variance one, and a unit's score is the mean over its
    features. Where a unit is several features (heads) the metric is squared first, as in the authors' code.

    Raises:
        StatisticsError: the problem has no statistics.
    """
    moments = problem.measured.moments
    weight = problem.weight.to(moments.gram)
    if metric == "wifn":
        score = weight.abs().mean(0) * (moments.energy / max(moments.count, 1)).clamp(min=0).sqrt()
    else:
        score = variances(moments) * (weight.square().sum(0) if metric == "wifv" else 1.0)
    if problem.span > 1:
        score = score.square()
    spread = score.std(correction=min(1, len(score) - 1)).clamp(min=torch.finfo(score.dtype).tiny)
    return problem.per_unit((score - score.mean()) / spread) / problem.span
