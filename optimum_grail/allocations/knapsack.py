"""Knapsack: free widths per group, chosen by error curves and measured sensitivities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.allocations.balanced import Balanced


@ALLOCATIONS.register
@dataclass(frozen=True)
class Knapsack(Balanced):
    """A width of its own for every group, where the predicted damage of the whole model is least.

    The checkpoint then needs the per-layer table (``import optimum_grail`` before loading).
    """

    tied: ClassVar[bool] = False
