"""Balanced: one width per kind and stack, chosen by error curves and measured sensitivities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.core.allocation import Allocation
from optimum_grail.core.budget import Budget, WidthClass, minimise
from optimum_grail.core.problem import Need


@ALLOCATIONS.register
@dataclass(frozen=True)
class Balanced(Allocation):
    """One width per kind for the whole stack, split between the kinds where the predicted damage is least.

    The damage of a group at width ``k`` is predicted as its sensitivity times its error curve at ``k``.
    """

    tied: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[Need]:
        """Error curves."""
        return frozenset({"gram", "curves"})

    def __call__(self, classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
        """Widths of least predicted damage within the budget."""
        return minimise(classes, budget)
