"""Widths under a budget: classes of groups that share one width, and the exact search over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optimum_grail.errors import BudgetError

BINS = 8192
"""Resolution of the dynamic programme over the budget; what rounding leaves is spent greedily afterwards."""


@dataclass(frozen=True)
class WidthClass:
    """Groups that get one common width.

    Args:
        name: unique name.
        kind: ``"mlp"``, ``"heads"`` or ``"conv"``.
        groups: names of its groups.
        units: their common number of units.
        widths: the widths allowed, ascending; the last is ``units``.
        cost: what one unit costs over all groups of the class (parameters, or 1 per group when units are counted).
        damage: float64, predicted damage at each of ``widths``, or ``None`` when nothing was measured.
    """

    name: str
    kind: str
    groups: tuple[str, ...]
    units: int
    widths: tuple[int, ...]
    cost: int
    damage: Tensor | None = None


@dataclass(frozen=True)
class Budget:
    """What may be kept.

    Args:
        kept: the cost that the kept units may have, in the units of :attr:`WidthClass.cost`.
        total: the cost of everything prunable, blocks' other parameters included: tolerances are fractions of it.
        undershoot: how far below ``kept`` a result may stay, as a fraction of ``total``.
        asked: the request in the user's words, for messages.
    """

    kept: float
    total: float
    undershoot: float = 0.005
    asked: str = ""


def cost_of(classes: Sequence[WidthClass], widths: Mapping[str, int]) -> int:
    """Cost of keeping ``widths``."""
    return sum(item.cost * widths[item.name] for item in classes)


def predicted(classes: Sequence[WidthClass], widths: Mapping[str, int]) -> float:
    """Predicted damage of ``widths``: the sum over classes."""
    return sum(
        float(item.damage[item.widths.index(widths[item.name])]) for item in classes if item.damage is not None
    )


def smallest(classes: Sequence[WidthClass]) -> int:
    """Cost of the smallest widths allowed."""
    return sum(item.cost * item.widths[0] for item in classes)


def check_reachable(classes: Sequence[WidthClass], budget: Budget) -> None:
    """Refuse a budget below the smallest widths.

    Raises:
        BudgetError: names what was asked and the largest reachable sparsity.
    """
    least = smallest(classes)
    if least > budget.kept + budget.undershoot * budget.total:
        whole = sum(item.cost * item.units for item in classes)
        reach = (whole - least) / max(budget.total, 1)
        raise BudgetError(
            f"{budget.asked or 'The sparsity'} cannot be reached: with the widths allowed here at most {reach:.4f} of "
            "the blocks can go. Ask for less, lower --round-to, or allow other widths with --no-standalone."
        )


def minimise(classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
    """Widths of least predicted damage within the budget: a multiple-choice knapsack by dynamic programming.

    Costs are rounded up to ``1 / BINS`` of the budget, so the result never exceeds it; what is left over is spent on
    the widening of best gain per cost (see :func:`spend`). Every class needs ``damage``.

    Raises:
        BudgetError: not even the smallest widths fit.
    """
    check_reachable(classes, budget)
    slack = max(budget.kept - smallest(classes), 0.0)
    unit = max(slack / BINS, 1e-9)
    best = torch.zeros(BINS + 1, dtype=torch.float64)
    choices: list[Tensor] = []
    for item in classes:
        damage = item.damage if item.damage is not None else torch.zeros(len(item.widths), dtype=torch.float64)
        steps = [-int(-(item.cost * (width - item.widths[0])) // unit) for width in item.widths]
        table = torch.full((BINS + 1,), float("inf"), dtype=torch.float64)
        choice = torch.zeros(BINS + 1, dtype=torch.int64)
        for index, step in enumerate(steps):
            if step > BINS:
                break
            candidate = best[: BINS + 1 - step] + damage[index]
            better = candidate < table[step:]
            table[step:][better] = candidate[better]
            choice[step:][better] = index
        best = table
        choices.append(choice)
    widths: dict[str, int] = {}
    left = BINS
    for item, choice in zip(reversed(classes), reversed(choices), strict=True):
        index = int(choice[left])
        widths[item.name] = item.widths[index]
        left -= -int(-(item.cost * (item.widths[index] - item.widths[0])) // unit)
    return spend(classes, budget, widths)


def spend(classes: Sequence[WidthClass], budget: Budget, widths: Mapping[str, int]) -> dict[str, int]:
    """Widen ``widths`` step by step, best predicted gain per cost first, while the budget allows.

    If more than the tolerated undershoot is then still unspent, the cheapest step is taken once more: the result keeps
    less than one step above the budget.
    """
    result = dict(widths)
    cost = cost_of(classes, result)

    def steps() -> list[tuple[float, int, str, int]]:
        found = []
        for item in classes:
            index = item.widths.index(result[item.name])
            if index + 1 < len(item.widths):
                price = item.cost * (item.widths[index + 1] - item.widths[index])
                gain = 0.0 if item.damage is None else float(item.damage[index] - item.damage[index + 1])
                found.append((-gain / price, price, item.name, item.widths[index + 1]))
        return sorted(found)

    while options := [step for step in steps() if cost + step[1] <= budget.kept]:
        _, price, name, width = options[0]
        result[name] = width
        cost += price
    rest = sorted(steps(), key=lambda step: (step[1], step[0]))
    if rest and budget.kept - cost > budget.undershoot * budget.total:
        result[rest[0][2]] = rest[0][3]
    return result
