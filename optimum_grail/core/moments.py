"""Streaming second-order statistics: sums only, so that shards and batches add up in any order.

Products run in float32 over chunks of rows, sums in float64 (GRAIL accumulates in float32 throughout, which
loses digits beyond about 1e5 rows).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from optimum_grail.errors import StatisticsError

CHUNK_ROWS = 4096
"""Rows per float32 product; the sum over chunks is float64."""
PRECISION = 1e-5
"""A variance below this fraction of the second moment is rounding of the float32 products: the feature is constant."""


def centred(gram: Tensor, total: Tensor, count: int) -> Tensor:
    """``G - μμᵀ/n``, with the rows and columns of constant features zero: their variance would be rounding, positive or
    not, and its correlations noise. Float64, shape ``[F, F]``."""
    covariance = gram - torch.outer(total, total) / max(count, 1)
    constant = covariance.diagonal() <= PRECISION * gram.diagonal()
    covariance[constant] = 0.0
    covariance[:, constant] = 0.0
    return covariance


@dataclass(frozen=True)
class Moments:
    """Sums over calibration rows ``s`` of the features entering a consumer; a commutative monoid under ``+``.

    Args:
        count: number of rows.
        total: ``Σ s``, float64, shape ``[F]``.
        gram: ``Σ s sᵀ``, float64, shape ``[F, F]``.
        offset: for folded features: sums over ``e``, what the consumer put out before its producers were folded,
            beyond what it puts out now; ``None`` where ``s`` are the features themselves and ``e`` is zero.
    """

    count: int
    total: Tensor
    gram: Tensor
    offset: TargetMoments | None = None

    @classmethod
    def zero(cls, width: int, device: torch.device | str = "cpu") -> Moments:
        """The neutral element for ``width`` features."""
        total = torch.zeros(width, dtype=torch.float64, device=device)
        return cls(0, total, total.new_zeros(width, width))

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        """Moments of ``rows``, shape ``[N, F]``, any float dtype."""
        sums = MomentSums.zero(rows.shape[1], rows.device)
        sums.add_(rows)
        return sums.taken()

    def __add__(self, other: Moments) -> Moments:
        offset = _plus(self.offset, other.offset)
        return Moments(self.count + other.count, self.total + other.total, self.gram + other.gram, offset)

    @property
    def energy(self) -> Tensor:
        """``Σ s²`` per feature, float64, shape ``[F]``."""
        return self.gram.diagonal()

    def covariance(self, affine: bool) -> Tensor:
        """``G - μμᵀ/n`` (see :func:`centred`) if ``affine``, else ``G``; ``[F, F]``, not divided by the count."""
        return centred(self.gram, self.total, self.count) if affine else self.gram

    def check(self, name: str) -> None:
        """Refuse statistics that no solve can use.

        Raises:
            StatisticsError: no rows, or a sum that is not finite; names the group and what to look at.
        """
        if self.count == 0:
            raise StatisticsError(f"Group {name!r} saw no calibration rows. Check the attention masks of the dataset.")
        if not bool(torch.isfinite(self.gram).all()):
            raise StatisticsError(
                f"The activations entering group {name!r} are not finite (NaN or infinite) on the calibration data. "
                "Check the checkpoint for NaN weights, or compute in float32 (--dtype float32)."
            )


@dataclass
class MomentSums:
    """:class:`Moments` in the making: they grow in place, so that no batch costs another matrix.

    Args:
        count: number of rows so far.
        total: float64, ``[F]``.
        gram: float64, ``[F, F]``.
    """

    count: int
    total: Tensor
    gram: Tensor

    @classmethod
    def zero(cls, width: int, device: torch.device | str = "cpu") -> MomentSums:
        """No rows yet of ``width`` features."""
        total = torch.zeros(width, dtype=torch.float64, device=device)
        return cls(0, total, total.new_zeros(width, width))

    def add_(self, rows: Tensor) -> None:
        """Add ``rows``, shape ``[N, F]``, any float dtype."""
        for chunk in rows.detach().split(CHUNK_ROWS):
            chunk = chunk.float()
            self.gram.add_(chunk.T @ chunk)
            self.total.add_(chunk.sum(0, dtype=torch.float64))
        self.count += len(rows)

    def taken(self) -> Moments:
        """The sums as a value; they are handed over instead of copied, and nothing can be added afterwards."""
        moments = Moments(self.count, self.total, self.gram)
        del self.total, self.gram
        return moments


@dataclass(frozen=True)
class TargetMoments:
    """Sums over the *drift* ``d = y* - W s``: what the consumer should output beyond what it does output.

    Summing the drift instead of ``y*`` keeps full precision where ``y*`` and ``W s`` nearly agree, makes the self
    target the special case of no drift, and turns the drift strength ``τ`` into a scalar: ``y*_τ = W s + τ d``.

    Args:
        total: ``Σ d``, float64, shape ``[O]``.
        cross: ``Σ d sᵀ``, float64, shape ``[O, F]``.
        energy: ``Σ ‖d‖²``, float64 scalar tensor.
    """

    total: Tensor
    cross: Tensor
    energy: Tensor

    @classmethod
    def zero(cls, outputs: int, width: int, device: torch.device | str = "cpu") -> TargetMoments:
        """The neutral element for ``outputs`` consumer outputs and ``width`` features."""
        total = torch.zeros(outputs, dtype=torch.float64, device=device)
        return cls(total, total.new_zeros(outputs, width), total.new_zeros(()))

    @classmethod
    def of(cls, drift: Tensor, rows: Tensor) -> TargetMoments:
        """Moments of the drift ``[N, O]`` on the features ``rows`` ``[N, F]``, any float dtypes."""
        sums = TargetSums.zero(drift.shape[1], rows.shape[1], rows.device)
        sums.add_(drift, rows)
        return sums.taken()

    def check(self, name: str) -> None:
        """Refuse a drift that no solve can use.

        Raises:
            StatisticsError: a sum is not finite; names the group and what to look at.
        """
        if not bool(torch.isfinite(self.energy)) or not bool(torch.isfinite(self.cross).all()):
            raise StatisticsError(
                f"The residual stream behind group {name!r} is not finite (NaN or infinite) on the calibration data. "
                "Check the checkpoint for NaN weights, or compute in float32 (--dtype float32)."
            )

    def __add__(self, other: TargetMoments) -> TargetMoments:
        return TargetMoments(self.total + other.total, self.cross + other.cross, self.energy + other.energy)


@dataclass
class TargetSums:
    """:class:`TargetMoments` in the making: they grow in place.

    Args:
        total: float64, ``[O]``.
        cross: float64, ``[O, F]``.
        energy: float64 scalar tensor.
    """

    total: Tensor
    cross: Tensor
    energy: Tensor

    @classmethod
    def zero(cls, outputs: int, width: int, device: torch.device | str = "cpu") -> TargetSums:
        """No rows yet of ``outputs`` consumer outputs and ``width`` features."""
        total = torch.zeros(outputs, dtype=torch.float64, device=device)
        return cls(total, total.new_zeros(outputs, width), total.new_zeros(()))

    def add_(self, drift: Tensor, rows: Tensor) -> None:
        """Add the drift ``[N, O]`` on the features ``rows`` ``[N, F]``, any float dtypes."""
        for d, s in zip(drift.detach().split(CHUNK_ROWS), rows.detach().split(CHUNK_ROWS), strict=True):
            d, s = d.float(), s.float()
            self.cross.add_(d.T @ s)
            self.total.add_(d.sum(0, dtype=torch.float64))
            self.energy.add_(d.square().sum(dtype=torch.float64))

    def taken(self) -> TargetMoments:
        """The sums as a value; they are handed over instead of copied, and nothing can be added afterwards."""
        moments = TargetMoments(self.total, self.cross, self.energy)
        del self.total, self.cross, self.energy
        return moments


def _plus(one: TargetMoments | None, other: TargetMoments | None) -> TargetMoments | None:
    """The sum, where ``None`` stands for a drift of zero."""
    if one is None or other is None:
        return one or other
    return one + other


@dataclass(frozen=True)
class Subset:
    """Rows that belong together: fitted on, or judged on, as a whole.

    Args:
        moments: of their features.
        target: their drift, or ``None`` for the self target.
    """

    moments: Moments
    target: TargetMoments | None = None


@dataclass(frozen=True)
class Statistics:
    """Everything the calibration measured for one group.

    Args:
        subsets: the rows, at least one subset. A second one holds rows that readouts are judged on. They may be read
            from files whenever they are looked at.
        crossed: the subsets come from different sources, and every one is judged by what is fitted on all the others;
            else everything is fitted on the first and judged on the second.
    """

    subsets: Sequence[Subset]
    crossed: bool = False

    @property
    def moments(self) -> Moments:
        """Moments of all rows."""
        return reduce(add, (subset.moments for subset in self.subsets))

    @property
    def target(self) -> TargetMoments | None:
        """Drift of all rows; ``None`` for the self target."""
        return reduce(_plus, (subset.target for subset in self.subsets))
