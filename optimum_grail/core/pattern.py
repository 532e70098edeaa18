"""Semi-structured patterns: at most N of M neighbouring weights of a row stay, and what is fitted on them.

All of it works on one linear layer ``y = W x`` at a time, on sums over calibration rows. With ``λ`` relative to the
mean diagonal of ``G``, everything is measured by one quadratic, ``tr((W - W₁)(G + λI)(W - W₁)ᵀ)``: ``W₁`` is what the
layer should be if nothing had to go.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from optimum_grail.core.contracts import Method
from optimum_grail.core.needs import Need
from optimum_grail.core.ratio import read_ratio
from optimum_grail.errors import StatisticsError

COLUMNS = 128
"""Columns that are gone through before the rest of the row is told about them, as in SparseGPT."""


@dataclass(frozen=True)
class Pattern:
    """``keep`` of ``of`` neighbouring weights stay.

    Args:
        keep: N, at least 1.
        of: M, above N and at most 32.
    """

    keep: int
    of: int

    @classmethod
    def read(cls, text: object) -> Pattern:
        """From ``"N:M"``.

        Raises:
            ConfigError: it is something else.
        """
        return cls(*read_ratio(text))

    def whole(self, width: int) -> int:
        """How many of ``width`` columns make up whole groups; those after them all stay."""
        return width - width % self.of

    def best(self, score: Tensor) -> Tensor:
        """The ``keep`` largest of every group of neighbours; of equals the first.

        Args:
            score: ``[R, C]``; higher stays.

        Returns:
            bool ``[R, C]``, True where a weight stays.
        """
        width = self.whole(score.shape[1])
        groups = score[:, :width].unflatten(1, (-1, self.of))
        order = groups.sort(dim=-1, descending=True, stable=True).indices[..., : self.keep]
        mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order, value=True)
        return torch.cat([mask.flatten(1), torch.ones_like(score[:, width:], dtype=torch.bool)], 1)


@dataclass(frozen=True)
class LinearSums:
    """Sums over the rows of a linear layer in the student.

    Args:
        count: rows.
        gram: ``Σ x xᵀ``, float64, ``[C, C]``.
        drift: ``Σ (y* - W x) xᵀ``, float64, ``[R, C]``: what the dense layer puts out beyond it, no bias counted.
    """

    count: int
    gram: Tensor
    drift: Tensor


@dataclass(frozen=True)
class LinearProblem:
    """One linear layer as numbers.

    Args:
        name: for messages.
        weight: float64, ``[R, C]``.
        fit: sums over the rows to fit on.
        held: sums over rows to judge by, others where there are enough.
    """

    name: str
    weight: Tensor
    fit: LinearSums
    held: LinearSums

    def check(self) -> None:
        """Refuse sums that no solve can use.

        Raises:
            StatisticsError: no rows, or values that are not finite.
        """
        for sums in (self.fit, self.held):
            if sums.count == 0:
                raise StatisticsError(f"Layer {self.name!r} saw no calibration rows. Check the attention masks.")
            if not bool(torch.isfinite(sums.gram).all() and torch.isfinite(sums.drift).all()):
                raise StatisticsError(
                    f"What enters or leaves layer {self.name!r} is not finite (NaN or infinite) on the calibration "
                    "data. Check the checkpoint for NaN weights, or compute in float32 (--dtype float32)."
                )

    def damped(self, damping: float) -> Tensor:
        """``G + λI`` of the rows to fit on; columns that nothing enters get a diagonal of one, as in SparseGPT."""
        gram = self.fit.gram.clone()
        diagonal = gram.diagonal()
        diagonal += damping * max(float(diagonal.mean()), torch.finfo(torch.float64).tiny)
        diagonal[diagonal <= 0] = 1.0
        return gram

    def wanted(self, damped: Tensor, strength: float) -> Tensor:
        """``W₁``: the layer that makes up for the share ``strength`` of the drift, float64 ``[R, C]``."""
        if strength == 0:
            return self.weight
        return self.weight + strength * torch.cholesky_solve(self.fit.drift.T, torch.linalg.cholesky(damped)).T

    def error(self, weight: Tensor) -> float:
        """``Σ ‖y* - weight x‖²`` on the rows to judge by, up to what no weight changes."""
        step = weight - self.weight
        return float((step @ self.held.gram * step).sum() - 2 * (self.held.drift * step).sum())


class PatternSelector(Method):
    """Chooses which weights of a linear layer stay, and their values."""

    @property
    def needs(self) -> frozenset[Need]:
        """Second moments, for all of them: one walk over the blocks serves every selector."""
        return frozenset({"gram", "held-out", "drift"})

    @abstractmethod
    def __call__(self, problem: LinearProblem, pattern: Pattern) -> Tensor:
        """The layer's new weight, float64 ``[R, C]``, zeros where the pattern has none."""


def surgeon(wanted: Tensor, damped: Tensor, pattern: Pattern) -> Tensor:
    """SparseGPT for N:M patterns (Frantar and Alistarh 2023, algorithm 1): group after group of neighbours, those
    weights go whose loss costs least, and the columns to the right make up for it.

    Args:
        wanted: ``W₁``, float64 ``[R, C]``.
        damped: ``G + λI``, float64 ``[C, C]``, positive definite.
        pattern: what stays.

    Returns:
        the weight, float64 ``[R, C]``.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper = torch.linalg.cholesky(inverse, upper=True)
    weight, width = wanted.clone(), pattern.whole(wanted.shape[1])
    step = COLUMNS - COLUMNS % pattern.of
    for first in range(0, width, step):
        last = min(first + step, width)
        errors = torch.zeros_like(weight[:, first:last])
        keep = torch.ones_like(errors, dtype=torch.bool)
        for column in range(first, last):
            if column % pattern.of == 0:
                group = slice(column, column + pattern.of)
                score = (weight[:, group] / upper.diagonal()[group]) ** 2
                keep[:, column - first : column - first + pattern.of] = pattern.best(score)
            left = torch.where(keep[:, column - first], weight[:, column], 0.0)
            errors[:, column - first] = (weight[:, column] - left) / upper[column, column]
            weight[:, column] = left
            ahead = slice(column + 1, last)
            weight[:, ahead] -= torch.outer(errors[:, column - first], upper[column, ahead])
        weight[:, last:] -= errors @ upper[first:last, last:]
    return weight


def settled(start: Tensor, wanted: Tensor, damped: Tensor, keep: Tensor, rounds: int) -> Tensor:
    """The weights that stay, fitted together: conjugate gradients on ``tr((W - W₁)(G + λI)(W - W₁)ᵀ)`` over them, all
    rows at once, preconditioned by the diagonal. It never raises the quadratic.

    Args:
        start: to begin with, float64 ``[R, C]``, zero where nothing stays.
        wanted: ``W₁``, float64 ``[R, C]``.
        damped: ``G + λI``, float64 ``[C, C]``.
        keep: bool ``[R, C]``.
        rounds: most steps.

    Returns:
        the weight, float64 ``[R, C]``.
    """
    weight, scale = start.clone(), damped.diagonal()
    residual = ((wanted - weight) @ damped) * keep
    leading = residual / scale
    along, size = leading.clone(), (residual * leading).sum(1)
    least = 1e-12 * size
    for _ in range(rounds):
        if bool((size <= least).all()):
            break
        ahead = (along @ damped) * keep
        bend = (along * ahead).sum(1)
        length = torch.where((size > least) & (bend > 0), size / bend, 0.0)
        weight += length[:, None] * along
        residual -= length[:, None] * ahead
        leading = residual / scale
        grown = (residual * leading).sum(1)
        along = leading + torch.where(size > 0, grown / size, 0.0)[:, None] * along
        size = grown
    return weight


def strengths(problem: LinearProblem, damped: Tensor, shares: tuple[float, ...]) -> Iterator[tuple[float, Tensor]]:
    """The layers wanted at several strengths of the drift; one where there is no drift."""
    alone = not bool(problem.fit.drift.any())
    yield from ((share, problem.wanted(damped, share)) for share in (shares[:1] if alone else shares))
