"""Balanced: one width per kind and stack, chosen by error curves and measured sensitivities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.allocations.uniform import Uniform
from optimum_grail.core.allocation import Allocation, Share
from optimum_grail.core.budget import Budget, WidthClass, minimise
from optimum_grail.core.problem import Need


@ALLOCATIONS.register
@dataclass(frozen=True)
class Balanced(Allocation):
    """One width per kind for the whole stack, split between the kinds where the predicted damage is least.

    The damage of a group at width ``k`` is predicted as its sensitivity times its error curve at ``k``. Predictions
    fail where damage is huge, so the split is rehearsed against the uniform one.

    Args:
        depth: also drop whole layers where that does less damage, if the stock config can say the number of layers.
    """

    depth: bool = False
    tied: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[Need]:
        """Error curves; the damage of leaving out each block if whole layers may go."""
        return (
            super().needs | frozenset[Need]({"gram", "curves"}) | (frozenset({"drops"}) if self.depth else frozenset())
        )

    @property
    def drops_layers(self) -> bool:
        """Whether whole layers may go."""
        return self.depth

    def __call__(self, classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
        """Widths of least predicted damage within the budget."""
        return minimise(classes, budget)

    def rivals(self) -> Sequence[Share]:
        """The uniform split."""
        return (Uniform(),)
