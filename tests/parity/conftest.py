"""Random rows whose float32 statistics are exact, so that NumPy transcriptions can be compared to 1e-8."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from optimum_grail.core.moments import Moments, Statistics, Subset, TargetMoments
from optimum_grail.core.problem import GroupProblem
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import NormalEquations

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Student features ``s``, dense features ``x``, consumer ``w``, producer rows ``p``; ``span`` features per unit."""

    s: Array
    x: Array
    w: Array
    p: Array
    span: int
    keep: Array
    clusters: Array

    @property
    def units(self) -> int:
        return self.s.shape[1] // self.span

    @property
    def gram(self) -> Array:
        return self.s.T @ self.s

    @property
    def columns(self) -> Array:
        """Indices of the kept features."""
        return (np.sort(self.keep)[:, None] * self.span + np.arange(self.span)).ravel()

    @property
    def others(self) -> Array:
        """Indices of the dropped features."""
        return np.setdiff1d(np.arange(self.s.shape[1]), self.columns)

    @property
    def averaging(self) -> tuple[Array, Array]:
        """``R`` (cluster means) and ``M`` (0/1 membership), ``[K, H]``."""
        member = np.zeros((self.clusters.max() + 1, self.units))
        member[self.clusters, np.arange(self.units)] = 1
        eye = np.eye(self.span)
        return np.kron(member / member.sum(1, keepdims=True), eye), np.kron(member, eye)

    @property
    def reduction(self) -> Reduction:
        return Reduction.prune(self.units, torch.from_numpy(self.keep))

    @property
    def folding(self) -> Reduction:
        return Reduction.fold(torch.from_numpy(self.clusters))

    @property
    def moments(self) -> Moments:
        return Moments.of(torch.from_numpy(self.s))

    def target(self, drift: Array) -> TargetMoments:
        """Moments of a drift ``[N, O]``."""
        return TargetMoments.of(torch.from_numpy(drift), torch.from_numpy(self.s))

    @property
    def gradients(self) -> tuple[Array, Array]:
        """Gradients by a mask on the units ``[samples, units]``, and by the consumer's weight."""
        draw = np.random.default_rng(7)
        return draw.standard_normal((12, self.units)), draw.random(self.w.shape)

    def problem(self, owns_bias: bool = False, drift: Array | None = None) -> GroupProblem:
        by_mask, by_weight = (torch.from_numpy(part) for part in self.gradients)
        return GroupProblem(
            "g",
            self.units,
            torch.from_numpy(self.w),
            (torch.from_numpy(self.p),),
            Statistics((Subset(self.moments, None if drift is None else self.target(drift)),)),
            owns_bias,
            mask_gradients=by_mask,
            block_gradients=by_weight,
        )

    def equations(self, reduction: Reduction, drift: Array | None = None) -> NormalEquations:
        target = None if drift is None else self.target(drift)
        return NormalEquations.of(torch.from_numpy(self.w), self.moments, target, reduction)


GROUPS = {"mlp": (0, 1), "mlp-again": (1, 1), "mha": (2, 3), "gqa": (3, 6), "conv": (4, 9)}
"""Seed and features per unit: a channel, a head, the query heads of a KV group, the taps of a filter."""


@pytest.fixture(params=GROUPS.values(), ids=GROUPS)
def sample(request: pytest.FixtureRequest) -> Sample:
    seed, span = request.param
    draw = np.random.default_rng(seed)
    units, outputs = 8, 5
    shared = draw.integers(-8, 9, (300, 1)) / 8
    s = (draw.integers(-12, 13, (300, units * span)) / 8 + shared + 0.5).round(3)
    x = s + draw.integers(-2, 3, s.shape) / 8
    clusters = draw.permutation(np.concatenate([np.arange(3), draw.integers(0, 3, units - 3)]))
    w, p = draw.standard_normal((outputs, units * span)), draw.standard_normal((units, 7))
    return Sample(s, x, w, p, span, draw.choice(units, 5, replace=False), clusters)
