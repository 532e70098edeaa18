"""FLAP: one threshold on standardised fluctuations for all heads and channels of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.core import papers
from optimum_grail.core.budget import Budget, WidthClass, minimise
from optimum_grail.core.contracts import Allocation
from optimum_grail.core.problem import Need


@ALLOCATIONS.register
@dataclass(frozen=True)
class Flap(Allocation):
    """Units of all groups in one ranking by their score, standardised within the group; the lowest go until the budget
    is met (An et al. 2024, "FLAP", section 3.3). No layer loses all units of a kind.

    A unit weighs what it costs. Keeping the units above a threshold is the same as losing the least score per cost, so
    the widths come from the exact search, which also fills what one threshold leaves over.
    """

    paper: ClassVar[str | None] = papers.FLAP

    @property
    def needs(self) -> frozenset[Need]:
        """The standardised scores."""
        return super().needs | {"fluctuation"}

    def __call__(self, classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
        """Widths at the threshold that meets the budget."""
        scores = [item.signal("fluctuation").sort().values for item in classes]
        lowest = min(float(score[0]) for score in scores)
        return minimise(
            [replace(item, damage=_lost(item, score - lowest)) for item, score in zip(classes, scores, strict=True)],
            budget,
        )


def _lost(item: WidthClass, scores: Tensor) -> Tensor:
    """Cost-weighted scores, ascending, that go at each width of ``item``; float64 ``[widths]``."""
    sums = torch.cat([scores.new_zeros(1), scores.cumsum(0)])
    return sums[item.units - torch.tensor(item.widths)] * (item.whole / item.units)
