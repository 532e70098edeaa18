"""Incremental: sparsity grows with depth along a logarithm (SlimGPT)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.allocations._ratios import by_ratio
from optimum_grail.core import papers
from optimum_grail.core.budget import Budget, WidthClass
from optimum_grail.core.contracts import Allocation
from optimum_grail.errors import ConfigError


@ALLOCATIONS.register
@dataclass(frozen=True)
class Incremental(Allocation):
    """Layer ``l`` of ``L`` loses ``r_0 + (r_L - r_0) log(1 + l) / log L``, because early errors pile up (Ling et al.
    2024, "SlimGPT", section 3.4).

    Args:
        first: the first layer's ratio ``r_0``, as a fraction of the mean ratio, in [0, 1]; 1 is uniform. The last
            layer's follows from the budget.
    """

    first: float = 0.5
    paper: ClassVar[str | None] = papers.SLIMGPT

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.first, bool) or not isinstance(self.first, int | float) or not 0 <= self.first <= 1:
            raise ConfigError(f"first is {self.first!r}; expected a number from 0 to 1.")

    def __call__(self, classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
        """Widths of the layers' ratios, all scaled so that the budget is met."""
        growth = torch.tensor([_growth(*item.place) for item in classes], dtype=torch.float64)
        mean = float(growth.mean())
        slope = (1 - self.first) / mean if mean else 0.0
        shape = self.first + slope * growth if mean else torch.ones_like(growth)
        return by_ratio(classes, budget, lambda level: level * shape)


def _growth(layer: int, layers: int) -> float:
    return math.log(1 + layer) / math.log(layers) if layers > 1 else 0.0
