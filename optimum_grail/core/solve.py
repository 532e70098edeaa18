"""One ridge problem behind every compensator.

For kept features ``z = E s`` and target ``y*_τ = W s + τ d`` the readout solves

    min ‖Y*_τ - Z W'ᵀ - 1 cᵀ‖² + λ ‖(W' - W₀) D^½‖²      (c = 0 unless affine)

with ``D = diag(E G Eᵀ)`` or its mean, and the anchor ``W₀`` zero (GRAIL) or what plain pruning leaves (OBS, SlimGPT).
``W'`` is affine in ``τ``; the held-out loss is therefore quadratic in ``τ`` and minimised in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from optimum_grail.core.linalg import RidgeScale, factorise
from optimum_grail.core.moments import Moments, TargetMoments, centred
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction

Anchor = Literal["zero", "naive"]


@dataclass(frozen=True)
class NormalEquations:
    """A group's statistics seen from one reduction: all that fitting and judging a readout needs.

    Shapes: ``K`` kept features, ``O`` outputs; float64.

    Args:
        count: rows.
        mean: ``Σ z``, ``[K]``.
        gram: ``Σ z zᵀ``, ``[K, K]``.
        cross: ``Σ (W s) zᵀ``, ``[O, K]``; ``W s + e`` instead of ``W s`` for folded features (:attr:`Moments.offset`).
        output: ``Σ W s``, ``[O]``; likewise.
        drift_cross: ``Σ d zᵀ``, ``[O, K]``, or ``None`` without drift; ``d - e`` instead of ``d`` likewise.
        drift: ``Σ d``, ``[O]``, or ``None``; likewise.
        energy: ``Σ ‖W s + d‖²``.
        total: ``Σ (W s + d)``, ``[O]``.
        naive: what plain pruning or folding leaves of the consumer, ``[O, K]``.
    """

    count: int
    mean: Tensor
    gram: Tensor
    cross: Tensor
    output: Tensor
    drift_cross: Tensor | None
    drift: Tensor | None
    energy: float
    total: Tensor
    naive: Tensor

    @property
    def variance(self) -> float:
        """The energy after the best constant is taken off: the error of dropping everything."""
        return self.energy - float(self.total.square().sum()) / max(self.count, 1)

    def __add__(self, other: NormalEquations) -> NormalEquations:
        """The equations of both sets of rows together; reduction and consumer have to be the same."""

        def both(one: Tensor | None, two: Tensor | None) -> Tensor | None:
            """The sum where both are there."""
            return one + two if one is not None and two is not None else one

        return NormalEquations(
            count=self.count + other.count,
            mean=self.mean + other.mean,
            gram=self.gram + other.gram,
            cross=self.cross + other.cross,
            output=self.output + other.output,
            drift_cross=both(self.drift_cross, other.drift_cross),
            drift=both(self.drift, other.drift),
            energy=self.energy + other.energy,
            total=self.total + other.total,
            naive=self.naive,
        )

    @classmethod
    def of(
        cls, weight: Tensor, moments: Moments, target: TargetMoments | None, reduction: Reduction
    ) -> NormalEquations:
        """Reduce the statistics of a consumer ``weight`` ``[O, F]`` (no bias in it) by ``reduction``."""
        weight = weight.to(moments.gram)
        span = weight.shape[1] // len(reduction.assignment)
        outer = weight @ moments.gram
        output = weight @ moments.total
        energy = (outer * weight).sum()
        gap = target or moments.offset
        total = output
        if gap is not None:
            energy = energy + 2 * (gap.cross * weight).sum() + gap.energy
            total = output + gap.total
        cross = reduction.encode_columns(outer, span)
        del outer  # the largest matrix but for the Gram itself
        drift_cross = drift = None
        if target is not None:
            drift_cross, drift = reduction.encode_columns(target.cross, span), target.total
        if moments.offset is not None:
            offset = reduction.encode_columns(moments.offset.cross, span)
            cross, output = cross + offset, output + moments.offset.total
            if drift_cross is not None and drift is not None:
                drift_cross, drift = drift_cross - offset, drift - moments.offset.total
        return cls(
            count=moments.count,
            mean=reduction.encode_rows(moments.total, span),
            gram=reduction.encode_columns(reduction.encode_rows(moments.gram, span), span),
            cross=cross,
            output=output,
            drift_cross=drift_cross,
            drift=drift,
            energy=float(energy),
            total=total,
            naive=reduction.lift_columns(weight, span),
        )

    def _target(self, tau: float) -> tuple[Tensor, Tensor]:
        if self.drift_cross is None or self.drift is None:
            return self.cross, self.output
        return self.cross + tau * self.drift_cross, self.output + tau * self.drift

    def loss(self, readout: Readout) -> float:
        """``Σ ‖y* - W' z - c‖²`` with the whole drift (``τ = 1``): what a readout is judged by."""
        cross, output = self._target(1.0)
        w = readout.weight
        value = self.energy - 2 * (w * cross).sum() + ((w @ self.gram) * w).sum()
        if readout.bias is not None:
            c = readout.bias
            value = value + 2 * c @ (w @ self.mean - output) + self.count * c @ c
        return max(float(value), 0.0)

    def fit(self, ridge: float, scale: RidgeScale, anchor: Anchor, affine: bool) -> Family:
        """Solve for all ``τ`` at once; see the module's docstring. ``ridge`` is relative, at least 0."""
        n = max(self.count, 1)
        gram = centred(self.gram, self.mean, n) if affine else self.gram
        cross = self.cross - torch.outer(self.output, self.mean) / n if affine else self.cross
        factor = factorise(gram, ridge, scale)
        if anchor == "naive":
            base = factor.solve(cross - self.naive @ gram).add_(self.naive)
        else:
            base = factor.solve(cross)
        slope = None
        if self.drift_cross is not None and self.drift is not None:
            pull = self.drift_cross - torch.outer(self.drift, self.mean) / n if affine else self.drift_cross
            slope = factor.solve(pull)
        return Family(self, base, slope, affine, factor.ridge)

    @property
    def plain(self) -> Readout:
        """Plain pruning or folding: no compensation."""
        return Readout(self.naive)


@dataclass(frozen=True)
class Family:
    """Readouts ``W'(τ) = base + τ slope`` of one ridge; ``equations`` are those they were fitted on."""

    equations: NormalEquations
    base: Tensor
    slope: Tensor | None
    affine: bool
    ridge: float

    def at(self, tau: float) -> Readout:
        """The readout for drift strength ``tau``."""
        return Readout(self._weight(tau), self._bias(tau) if self.affine else None)

    def _weight(self, tau: float) -> Tensor:
        return self.base if self.slope is None else self.base + tau * self.slope

    def _bias(self, tau: float) -> Tensor:
        output = self.equations._target(tau)[1]
        return (output - self._weight(tau) @ self.equations.mean) / max(self.equations.count, 1)

    def losses(self, judge: NormalEquations) -> Parabola:
        """The loss on ``judge`` of every ``tau``, with the whole drift as target."""
        cross, output = judge._target(1.0)
        seen = self.base @ judge.gram
        at_zero = judge.energy + ((seen - 2 * cross) * self.base).sum()
        slope = curvature = torch.zeros_like(at_zero)
        change = torch.zeros_like(self.base) if self.slope is None else self.slope
        if self.slope is not None:
            slope = 2 * ((seen - cross) * change).sum()
            curvature = ((change @ judge.gram) * change).sum()
        if self.affine:
            start, step = self._bias(0.0), self._bias(1.0) - self._bias(0.0)
            miss, moved, n = self.base @ judge.mean - output, change @ judge.mean, judge.count
            at_zero = at_zero + 2 * start @ miss + n * start @ start
            slope = slope + 2 * (step @ miss + start @ moved + n * start @ step)
            curvature = curvature + 2 * step @ moved + n * step @ step
        return Parabola(float(at_zero), float(slope), float(curvature))


@dataclass(frozen=True)
class Parabola:
    """``at_zero + slope τ + curvature τ²``: a loss as a function of the drift strength; a vector space."""

    at_zero: float
    slope: float
    curvature: float

    def __add__(self, other: Parabola) -> Parabola:
        return Parabola(self.at_zero + other.at_zero, self.slope + other.slope, self.curvature + other.curvature)

    def __truediv__(self, scale: float) -> Parabola:
        return Parabola(self.at_zero / scale, self.slope / scale, self.curvature / scale)

    def at(self, tau: float) -> float:
        """The loss; never below zero, where rounding would put it."""
        return max(self.at_zero + tau * (self.slope + tau * self.curvature), 0.0)

    @property
    def best(self) -> float:
        """The ``τ`` in [0, 1] of least loss; of equal ones the smaller."""
        if self.curvature <= 0:
            return 1.0 if self.slope + self.curvature < 0 else 0.0
        return min(max(-self.slope / (2 * self.curvature), 0.0), 1.0)
