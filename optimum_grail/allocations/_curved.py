"""What the allocations share that predict damage from error curves and sensitivities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optimum_grail.allocations.uniform import Uniform
from optimum_grail.core.budget import Budget, WidthClass, minimise
from optimum_grail.core.contracts import Allocation, Share
from optimum_grail.core.problem import Need


@dataclass(frozen=True)
class Curved(Allocation):
    """The damage of a group at width ``k`` is predicted as its sensitivity times its error curve at ``k``. Predictions
    fail where damage is huge, so what they lead to is rehearsed against the uniform split.

    Args:
        depth: also drop whole layers where that does less damage, if the stock config can say the number of layers.
    """

    depth: bool = False

    @property
    def needs(self) -> frozenset[Need]:
        """Error curves; the damage of leaving out each block if whole layers may go."""
        return super().needs | {"curves"} | ({"drops"} if self.depth else set())

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
