"""Symmetric positive solves that do not crash: equilibrated Cholesky, escalating ridge, eigenvalue fallback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

RidgeScale = Literal["diagonal", "mean"]
ESCALATIONS = 8
DEAD = 1e-14
"""A feature whose second moment is below this fraction of the largest is dead and leaves the system."""


@dataclass(frozen=True)
class Factor:
    """``(A + λD)⁻¹`` ready to apply to right-hand sides.

    Args:
        live: int64 indices of the features in the system.
        scale: ``diag(A)^-1/2`` of the live features.
        lower: Cholesky factor of the equilibrated system, or its pseudo-inverse if ``inverse``.
        inverse: what ``lower`` holds.
        ridge: the ridge really used, after escalation.
        size: number of features before dead ones left.
    """

    live: Tensor
    scale: Tensor
    lower: Tensor
    inverse: bool
    ridge: float
    size: int

    def solve(self, rhs: Tensor) -> Tensor:
        """``rhs (A + λD)⁻¹`` for ``rhs`` of shape ``[R, size]``, float64; dead columns come back zero."""
        whole = len(self.live) == self.size  # nothing is copied for features that are all there
        scaled = (rhs if whole else rhs[:, self.live]) * self.scale
        if self.inverse:
            solution = scaled @ self.lower
        else:
            solution = torch.cholesky_solve(scaled.T, self.lower).T
        del scaled
        solution.mul_(self.scale)
        if whole:
            return solution
        out = rhs.new_zeros(rhs.shape[0], self.size)
        out[:, self.live] = solution
        return out


def live_features(diagonal: Tensor) -> Tensor:
    """Indices of the features whose second moment is not negligible; int64."""
    floor = float(diagonal.max()) * DEAD if diagonal.numel() else 0.0
    return torch.nonzero(diagonal > max(floor, 0.0)).flatten()


def factorise(matrix: Tensor, ridge: float, scale: RidgeScale = "diagonal") -> Factor:
    """Factor ``A + λD`` for symmetric positive semi-definite ``A``, float64, shape ``[K, K]``.

    Args:
        matrix: ``A``.
        ridge: ``λ ≥ 0``, relative: ``D = diag(A)`` for scale ``"diagonal"`` (free of units), the mean of the diagonal
            times the identity for ``"mean"`` (GRAIL).
        scale: see ``ridge``.

    If the factorisation fails the ridge grows tenfold, at most eight times; then eigenvalues are clipped.
    """
    live = live_features(matrix.diagonal())
    a = matrix if len(live) == len(matrix) else matrix[live][:, live]
    root = a.diagonal().rsqrt()
    a = (a + a.T).mul_(0.5 * root[:, None] * root)
    bump = torch.ones_like(root) if scale == "diagonal" else matrix.diagonal().mean() * root.square()
    tried = ridge
    for attempt in range(ESCALATIONS):
        damped = a.clone()
        damped.diagonal().add_(tried * bump)
        lower, info = torch.linalg.cholesky_ex(damped)
        del damped
        if int(info) == 0 and bool(torch.isfinite(lower).all()):
            return Factor(live, root, lower, False, tried, len(matrix))
        tried = max(ridge, 1e-12) * 10.0 ** (attempt + 1)
    values, vectors = torch.linalg.eigh(a)
    floor = values.max().clamp(min=1e-300) * 1e-10
    inverse = (vectors / values.clamp(min=floor)) @ vectors.T
    return Factor(live, root, inverse, True, tried, len(matrix))
