"""Uniform: the same fraction of each kind in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.allocations._checks import check_round_to
from optimum_grail.core.budget import Budget, WidthClass, check_reachable, cost_of, spend
from optimum_grail.core.problem import Need


@ALLOCATIONS.register
@dataclass(frozen=True)
class Uniform:
    """The same fraction everywhere; heads go to the nearest allowed count and the FFN width meets the budget.

    Args:
        round_to: FFN and convolution widths are multiples of this.
    """

    round_to: int = 1
    needs: ClassVar[frozenset[Need]] = frozenset()
    tied: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_round_to(self.round_to)

    def __call__(self, classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
        """Widths of the classes: heads first, then the largest common fraction of the rest that fits."""
        check_reachable(classes, budget)
        whole = sum(item.cost * item.units for item in classes)
        fraction = min(max(budget.kept / whole, 0.0), 1.0)
        coarse = {item.name for item in classes if item.kind == "heads"}
        coarse = coarse if len(coarse) < len(classes) else set()
        fixed = {item.name: item.nearest(fraction * item.units) for item in classes if item.name in coarse}
        fine = [item for item in classes if item.name not in coarse]
        while True:
            widths = _fill(classes, fine, fixed, budget.kept)
            left = budget.kept - cost_of(classes, widths)
            if left < 0 and _shrink_(classes, fixed):
                continue
            much = left > budget.undershoot * budget.total and _full(fine, widths)
            if much and _grow_(classes, fine, fixed, budget.kept):
                continue
            return spend(fine, _rest(classes, fixed, budget), {item.name: widths[item.name] for item in fine}) | fixed


def _rest(classes: Sequence[WidthClass], fixed: dict[str, int], budget: Budget) -> Budget:
    used = sum(item.cost * fixed[item.name] for item in classes if item.name in fixed)
    return Budget(budget.kept - used, budget.total, budget.undershoot, budget.asked)


def _fill(
    classes: Sequence[WidthClass], fine: Sequence[WidthClass], fixed: dict[str, int], kept: float
) -> dict[str, int]:
    """The largest common fraction of the fine classes that fits, by bisection."""
    low, high = 0.0, 2.0  # so that everything is tried first
    widths = fixed | {item.name: item.widths[0] for item in fine}
    for _ in range(40):
        middle = (low + high) / 2
        trial = fixed | {
            item.name: max((w for w in item.widths if w <= middle * item.units), default=item.widths[0])
            for item in fine
        }
        if cost_of(classes, trial) <= kept:
            low, widths = middle, trial
        else:
            high = middle
    return widths


def _shrink_(classes: Sequence[WidthClass], fixed: dict[str, int]) -> bool:
    """Take the widest coarse class one step down, because even the least FFN width does not fit; False at the end."""
    open_classes = [item for item in classes if item.name in fixed and fixed[item.name] > item.widths[0]]
    if not open_classes:
        return False
    item = max(open_classes, key=lambda item: fixed[item.name] / item.units)
    fixed[item.name] = item.widths[item.widths.index(fixed[item.name]) - 1]
    return True


def _full(fine: Sequence[WidthClass], widths: dict[str, int]) -> bool:
    return all(widths[item.name] == item.units for item in fine)


def _grow_(classes: Sequence[WidthClass], fine: Sequence[WidthClass], fixed: dict[str, int], kept: float) -> bool:
    """Take the narrowest coarse class one step up, because not even whole FFNs spend the budget; False if none fits."""
    least = sum(item.cost * item.widths[0] for item in fine)
    least += sum(item.cost * fixed[item.name] for item in classes if item.name in fixed)
    steps = []
    for item in classes:
        if item.name in fixed and fixed[item.name] < item.units:
            width = item.widths[item.widths.index(fixed[item.name]) + 1]
            if least + item.cost * (width - fixed[item.name]) <= kept:
                steps.append((fixed[item.name] / item.units, item.name, width))
    if not steps:
        return False
    _, name, width = min(steps)
    fixed[name] = width
    return True
