"""Uniform: the same fraction of each kind in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.core.budget import Budget, WidthClass, check_reachable, minimise, smallest
from optimum_grail.core.contracts import Allocation


@ALLOCATIONS.register
@dataclass(frozen=True)
class Uniform(Allocation):
    """The same fraction everywhere; heads go to the nearest allowed count and the FFN width meets the budget."""

    tied: ClassVar[bool] = True

    def __call__(self, classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
        """Widths of the classes: heads first, then the largest common fraction of the rest that fits."""
        check_reachable(classes, budget)
        whole = {item.name: item.units for item in classes if len(item.widths) == 1}
        if len(whole) == len(classes):
            return whole
        if whole:
            return self([item for item in classes if item.name not in whole], _rest(classes, whole, budget)) | whole
        fraction = min(max(budget.kept / _whole(classes), 0.0), 1.0)
        fine = [item for item in classes if item.kind != "heads"] or list(classes)
        names = {item.name for item in fine}
        fixed = {item.name: item.nearest(fraction * item.units) for item in classes if item.name not in names}
        while True:
            rest = _rest(classes, fixed, budget)
            if rest.kept < smallest(fine) and _shrink_(classes, fixed):
                continue
            much = rest.kept - _whole(fine) > budget.undershoot * budget.total
            if much and _grow_(classes, fixed, rest.kept - smallest(fine)):
                continue
            return minimise(_alike(fine, rest.kept / _whole(fine) if _whole(fine) else 1.0), rest) | fixed


def _whole(classes: Sequence[WidthClass]) -> int:
    return sum(item.whole for item in classes)


def _alike(classes: Sequence[WidthClass], fraction: float) -> list[WidthClass]:
    """The classes with the distance from one common fraction for damage."""
    return [
        replace(item, damage=(torch.tensor(item.widths, dtype=torch.float64) / item.units - fraction).square())
        for item in classes
    ]


def _rest(classes: Sequence[WidthClass], fixed: dict[str, int], budget: Budget) -> Budget:
    used = sum(item.price(fixed[item.name]) for item in classes if item.name in fixed)
    return replace(budget, kept=budget.kept - used)


def _shrink_(classes: Sequence[WidthClass], fixed: dict[str, int]) -> bool:
    """Take the widest coarse class one step down, because even the least FFN width does not fit; False at the end."""
    open_classes = [item for item in classes if item.name in fixed and fixed[item.name] > item.widths[0]]
    if not open_classes:
        return False
    item = max(open_classes, key=lambda item: fixed[item.name] / item.units)
    fixed[item.name] = item.widths[item.widths.index(fixed[item.name]) - 1]
    return True


def _grow_(classes: Sequence[WidthClass], fixed: dict[str, int], spare: float) -> bool:
    """Take the narrowest coarse class one step up, because not even whole FFNs spend the budget.

    ``spare``: what would be left with the least FFN widths. False if no step fits into it.
    """
    steps = []
    for item in classes:
        if item.name in fixed and fixed[item.name] < item.units:
            width = item.widths[item.widths.index(fixed[item.name]) + 1]
            if item.price(width) - item.price(fixed[item.name]) <= spare:
                steps.append((fixed[item.name] / item.units, item.name, width))
    if not steps:
        return False
    _, name, width = min(steps)
    fixed[name] = width
    return True
