"""What the allocations share that predict damage from error curves and sensitivities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from optimum_grail.allocations.uniform import Uniform
from optimum_grail.core.budget import Budget, WidthClass, minimise, smallest
from optimum_grail.core.contracts import Allocation, Share
from optimum_grail.core.problem import Need
from optimum_grail.errors import ConfigError

CURVES: Mapping[str, Need] = MappingProxyType(
    {"gradient": "gradient-curves", "forward": "curves", "bent": "bent-curves", "error": "error-curves"}
)


@dataclass(frozen=True)
class Curved(Allocation):
    """The damage of a group at width ``k`` is predicted as its sensitivity times its error curve at ``k``. Predictions
    fail where damage is huge, so what they lead to is rehearsed against the uniform split.

    Args:
        depth: also drop whole layers where that does less damage, if the stock config can say the number of layers.
        sensitivity: what an error of a group counts. ``"gradient"``: the curvature of the loss along it, from one
            backward sweep, whose cost grows with the depth of the model; ``"forward"``: the loss itself with the group
            halved, one short forward pass per group, whose cost grows with the square of the depth; ``"bent"``: three
            of them, down to an eighth, for networks whose damage is no multiple of the error (ResNets); ``"error"``:
            nothing is measured, every group's relative error counts alike (the prior of ZipLM's search, Kurtic et
            al. 2023).

    Raises:
        ConfigError: another sensitivity.
    """

    depth: bool = False
    sensitivity: Literal["gradient", "forward", "bent", "error"] = "gradient"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sensitivity not in CURVES:
            raise ConfigError(f"sensitivity is {self.sensitivity!r}; expected {', '.join(CURVES)}.")

    @property
    def needs(self) -> frozenset[Need]:
        """Error curves; the damage of leaving out each block if whole layers may go."""
        return super().needs | {CURVES[self.sensitivity]} | ({"drops"} if self.depth else set())

    @property
    def drops_layers(self) -> bool:
        """Whether whole layers may go."""
        return self.depth

    def __call__(self, classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
        """Widths of least predicted damage within the budget."""
        return minimise(classes, budget)

    def rivals(self) -> Sequence[Share]:
        """The uniform split, and the best one that leaves attention whole."""
        return (Uniform(), with_whole_heads)


def with_whole_heads(classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
    """Widths of least predicted damage with all heads where they are; without that condition where the other kinds
    alone cannot meet the budget.

    A model with few heads per layer can lose a third of its attention or none. What that does to all layers together is
    far from the sum over the layers, which error curves predict (docs/adr/0012).
    """
    heads = [item for item in classes if item.kind == "heads"]
    others = [item for item in classes if item.kind != "heads"]
    left = replace(budget, kept=budget.kept - sum(item.whole for item in heads))
    if not others or smallest(others) > left.kept:
        return minimise(classes, budget)
    return {item.name: item.units for item in heads} | minimise(others, left)
