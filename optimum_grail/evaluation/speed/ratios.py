"""How much quicker one model is than another, and how sure that is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
"""Least probability with which an interval shall hold the true median."""


@dataclass(frozen=True)
class Ratio:
    """Median of paired ratios with a distribution-free interval: two of the sorted ratios, chosen by their ranks.

    Args:
        median: of the ratios.
        low: lower end of the interval.
        high: its upper end.
        confidence: probability that such an interval holds the median of many more pairs, where the pairs are
            independent; below :data:`CONFIDENCE` where there are fewer than six pairs.
    """

    median: float
    low: float
    high: float
    confidence: float

    @classmethod
    def of(cls, first: Sequence[float], second: Sequence[float]) -> Ratio:
        """Of at least one pair of positive numbers: ``first[i] / second[i]``."""
        ratios = sorted(a / b for a, b in zip(first, second, strict=True))
        rank = _rank(len(ratios))
        return cls(statistics.median(ratios), ratios[rank], ratios[-1 - rank], _confidence(len(ratios), rank))

    @property
    def within_noise(self) -> bool:
        """Whether the two may be equally quick: the interval holds 1."""
        return self.low <= 1 <= self.high


def _confidence(count: int, rank: int) -> float:
    """Probability that the median lies between the sorted values ``rank`` and ``-1 - rank``: of as many fair coins,
    more than ``rank`` show each side."""
    return 1 - 2 * sum(math.comb(count, heads) for heads in range(rank + 1)) / 2**count


def _rank(count: int) -> int:
    """The highest rank whose interval is sure enough, or 0."""
    return max((rank for rank in range(count // 2) if _confidence(count, rank) >= CONFIDENCE), default=0)


def realised(speedup: float, ideal: float) -> float | None:
    """Share of the saving in operations that is a saving in time: 1 where time shrinks as operations do, 0 where it
    stays, negative where it grows; ``None`` where no operations are saved.

    Args:
        speedup: seconds of the first model over seconds of the second.
        ideal: operations of the first model over operations of the second.
    """
    return None if ideal <= 1 else (1 - 1 / speedup) / (1 - 1 / ideal)
