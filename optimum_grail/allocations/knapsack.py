"""Knapsack: free widths per group, chosen by error curves and measured sensitivities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.allocations._curved import Curved
from optimum_grail.core import papers
from optimum_grail.core.problem import Need
from optimum_grail.errors import ConfigError

CURVES: Mapping[str, Need] = MappingProxyType(
    {"forward": "curves", "bent": "bent-curves", "gradient": "gradient-curves", "error": "error-curves"}
)


@ALLOCATIONS.register
@dataclass(frozen=True)
class Knapsack(Curved):
    """A width of its own for every group, where the predicted damage of the whole model is least.

    The checkpoint then needs the per-layer table (``import optimum_grail`` before loading).

    Args:
        sensitivity: ``"forward"``: one short forward pass per group with the group halved; ``"bent"``: three, down to
            an eighth, for networks whose damage is no multiple of the error (ResNets); ``"gradient"``: one backward
            pass per batch for all groups, which is cheaper for deep models and cruder; ``"error"``: none, every group's
            relative error counts alike (the prior of ZipLM's search, Kurtic et al. 2023).
    """

    sensitivity: Literal["forward", "bent", "gradient", "error"] = "forward"
    paper: ClassVar[str | None] = papers.ZIPLM

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sensitivity not in CURVES:
            raise ConfigError(f"sensitivity is {self.sensitivity!r}; expected {', '.join(CURVES)}.")

    @property
    def needs(self) -> frozenset[Need]:
        """Error curves, and what the costs of the resource are computed from."""
        return super().needs - {"curves"} | {CURVES[self.sensitivity]}
