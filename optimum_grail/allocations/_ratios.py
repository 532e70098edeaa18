"""From a rule of ratios per layer to widths that meet a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from optimum_grail.core.budget import Budget, WidthClass, minimise

BISECTIONS = 100
Rule = Callable[[float], Tensor]
"""``level -> sparsity of each class``, float64 ``[classes]``, not falling as the level rises and nothing at -1; values
are clipped to what a class may lose."""


def by_ratio(classes: Sequence[WidthClass], budget: Budget, rule: Rule) -> dict[str, int]:
    """Widths nearest to the fractions that ``rule`` keeps at the level at which they cost the budget.

    Distances are squared and weighted by what a class costs, so heads go to near counts and the finer FFNs make up.

    Raises:
        BudgetError: not even the smallest widths fit.
    """
    fractions = kept_fractions(classes, budget, rule).tolist()
    aims = [
        replace(item, damage=item.whole * (torch.tensor(item.widths, dtype=torch.float64) / item.units - aim).square())
        for item, aim in zip(classes, fractions, strict=True)
    ]
    return minimise(aims, budget)


def kept_fractions(classes: Sequence[WidthClass], budget: Budget, rule: Rule) -> Tensor:
    """The fraction of its units that each class keeps before rounding; float64 ``[classes]``."""
    costs = torch.tensor([item.whole for item in classes], dtype=torch.float64)
    least = torch.tensor([item.widths[0] / item.units for item in classes], dtype=torch.float64)

    def kept(level: float) -> Tensor:
        """Share of each class that stays at a level."""
        return torch.minimum((1 - rule(level)).maximum(least), torch.ones_like(least))

    low, high = -1.0, 1.0
    while float(costs @ kept(high)) > budget.kept and high < 1e12:
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if float(costs @ kept(middle)) > budget.kept else (low, middle)
    return kept(high)


def blocks_of(classes: Sequence[WidthClass]) -> dict[str, list[int]]:
    """Indices of the classes of each block, in order of first appearance."""
    found: dict[str, list[int]] = {}
    for index, item in enumerate(classes):
        found.setdefault(item.block, []).append(index)
    return found
