"""Knapsack: free widths per group, chosen by error curves and sensitivities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.allocations._curved import Curved
from optimum_grail.core import papers


@ALLOCATIONS.register
@dataclass(frozen=True)
class Knapsack(Curved):
    """A width of its own for every group, where the predicted damage of the whole model is least.

    The checkpoint then needs the per-layer table (``import optimum_grail`` before loading).
    """

    paper: ClassVar[str | None] = papers.ZIPLM
