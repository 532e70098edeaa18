"""Balanced: one width per kind and stack, chosen by error curves and measured sensitivities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.allocations._checks import check_round_to
from optimum_grail.core.budget import Budget, WidthClass, minimise
from optimum_grail.core.problem import Need


@ALLOCATIONS.register
@dataclass(frozen=True)
class Balanced:
    """One width per kind for the whole stack, split between the kinds where the predicted damage is least.

    The damage of a group at width ``k`` is predicted as its sensitivity times its error curve at ``k``.

    Args:
        round_to: FFN and convolution widths are multiples of this.
    """

    round_to: int = 1
    needs: ClassVar[frozenset[Need]] = frozenset({"gram", "curves"})
    tied: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_round_to(self.round_to)

    def __call__(self, classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
        """Widths of least predicted damage within the budget."""
        return minimise(classes, budget)
