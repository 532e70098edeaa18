"""Fisher: the units of least Fisher information go, wherever in the model they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.core import papers
from optimum_grail.core.budget import Budget, WidthClass, minimise
from optimum_grail.core.contracts import Allocation
from optimum_grail.core.problem import Need


@ALLOCATIONS.register
@dataclass(frozen=True)
class Fisher(Allocation):
    """Widths that lose the least ``Σ_b (∂L_b/∂m)²`` over all masks ``m`` that go, under the budget, solved exactly.

    Kwon et al. 2022, "A Fast Post-Training Pruning Framework for Transformers", sec. 4.1 (the mask search of their
    algorithm 1: heads and filters in two rankings, every split of the budget tried). No layer loses all of a kind.
    """

    paper: ClassVar[str | None] = papers.KWON

    @property
    def needs(self) -> frozenset[Need]:
        """The information of every unit, and what the costs of the resource are computed from."""
        return super().needs | {"information"}

    def __call__(self, classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
        """Widths that lose the least information."""
        found = []
        for item in classes:
            sums = item.signal("information").sort().values.cumsum(0)
            lost = torch.cat([sums.new_zeros(1), sums])[item.units - torch.tensor(item.widths)]
            found.append(replace(item, damage=lost))
        return minimise(found, budget)
