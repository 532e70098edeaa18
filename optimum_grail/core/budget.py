"""Widths under a budget: classes of groups that share one width, and the exact search over them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from optimum_grail.errors import BudgetError, StatisticsError

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
        cost: what one unit costs over all groups of the class (parameters, or 1 per group when units are counted); or,
            where costs do not add up (latency), what each of ``widths`` costs, ascending.
        damage: float64, predicted damage at each of ``widths``, or ``None`` when nothing was measured.
        block: path of the block that owns the first of its groups.
        place: position of that block in its stack, and the number of blocks there.
        signals: what else was measured, by the signal's name, one row per group.
    """

    name: str
    kind: str
    groups: tuple[str, ...]
    units: int
    widths: tuple[int, ...]
    cost: int | tuple[int, ...]
    damage: Tensor | None = None
    block: str = ""
    place: tuple[int, int] = (0, 1)
    signals: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def prices(self) -> tuple[int, ...]:
        """What each of ``widths`` costs."""
        return self.cost if isinstance(self.cost, tuple) else tuple(self.cost * width for width in self.widths)

    @property
    def whole(self) -> int:
        """What all units cost."""
        return self.prices[-1]

    def price(self, width: int) -> int:
        """What ``width``, one of ``widths``, costs."""
        return self.prices[self.widths.index(width)] if isinstance(self.cost, tuple) else self.cost * width

    def signal(self, name: str) -> Tensor:
        """The signal ``name``, averaged over the groups of the class.

        Raises:
            StatisticsError: it was not measured; the allocation should declare that it needs it.
        """
        if name not in self.signals:
            raise StatisticsError(
                f"The signal {name!r} of {self.name!r} was not measured, but the allocation reads it."
            )
        return self.signals[name].double().mean(0)

    def nearest(self, share: float) -> int:
        """The allowed width nearest to ``share`` units; the wider of two equally near ones."""
        return min(self.widths, key=lambda width: (abs(width - share), -width))


@dataclass(frozen=True)
class Budget:
    """What may be kept.

    Args:
        kept: the cost that the kept units may have, in the units of :attr:`WidthClass.cost`.
        total: the cost of everything prunable, blocks' other parameters included: tolerances are fractions of it.
        undershoot: how far below ``kept`` a result may stay, as a fraction of ``total``.
        asked: the request in the user's words, for messages.
        resource: what is counted, for messages.
        outside: what the rest of the model costs, where a size of the whole model was asked for; for messages.
    """

    kept: float
    total: float
    undershoot: float = 0.005
    asked: str = ""
    resource: str = "parameters"
    outside: float | None = None


def cost_of(classes: Sequence[WidthClass], widths: Mapping[str, int]) -> int:
    """Cost of keeping ``widths``."""
    return sum(item.price(widths[item.name]) for item in classes)


def predicted(classes: Sequence[WidthClass], widths: Mapping[str, int]) -> float:
    """Predicted damage of ``widths``: the sum over classes."""
    return sum(float(item.damage[item.widths.index(widths[item.name])]) for item in classes if item.damage is not None)


def smallest(classes: Sequence[WidthClass]) -> int:
    """Cost of the smallest widths allowed."""
    return sum(item.prices[0] for item in classes)


def check_reachable(classes: Sequence[WidthClass], budget: Budget) -> None:
    """Refuse a budget below the smallest widths.

    Raises:
        BudgetError: names what was asked and the largest reachable sparsity.
    """
    least = smallest(classes)
    if least > budget.kept + budget.undershoot * budget.total:
        whole = sum(item.whole for item in classes)
        reach = (whole - least) / max(budget.total, 1)
        left = "" if budget.outside is None else f", which leaves {budget.outside + budget.total - whole + least:,.0f}"
        raise BudgetError(
            f"{budget.asked or 'The sparsity'} cannot be reached: with the widths allowed here at most {reach:.4f} of "
            f"the blocks' {budget.resource} can go{left}. Ask for less, lower --round-to and the allocation's floors, "
            "or allow other widths with --no-standalone."
        )


def finest_step(classes: Sequence[WidthClass]) -> int:
    """Cost of the cheapest step between two widths, heads left out where other kinds can be stepped; 0 without any."""
    fine = [price for item in classes if item.kind != "heads" for price in _prices(item)]
    return min(fine or [price for item in classes for price in _prices(item)], default=0)


def _prices(item: WidthClass) -> list[int]:
    """Costs of the steps between neighbouring widths that cost anything."""
    return [above - below for below, above in pairwise(item.prices) if above > below]


def minimise(classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
    """Widths of least predicted damage that spend the budget: a multiple-choice knapsack by dynamic programming.

    The result costs at most the budget and at least the budget less the tolerated undershoot. Where no widths do, it
    exceeds the budget by less than the :func:`finest_step`; where none do that either, it is the costliest within the
    budget.

    Where the common divisor of all steps goes into the budget more than ``BINS`` times, the search rounds costs up;
    what that leaves over is spent on the widening of best gain per cost (see :func:`spend`). Classes without
    ``damage`` count as harmless.

    Raises:
        BudgetError: not even the smallest widths fit.
    """
    check_reachable(classes, budget)
    divisor = math.gcd(*(price for item in classes for price in _prices(item))) or 1
    most = max(budget.kept - smallest(classes), 0.0) + finest_step(classes)
    unit = divisor * max(math.ceil(most / (divisor * max(BINS - len(classes), 1))), 1)
    best = torch.full((BINS + 1,), float("inf"), dtype=torch.float64)
    best[0] = 0.0
    choices: list[Tensor] = []
    for item in classes:
        best, choice = _extend(best, item, unit)
        choices.append(choice)
    return spend(classes, budget, _choose(classes, budget, unit, best, choices))


def _choose(
    classes: Sequence[WidthClass], budget: Budget, unit: int, best: Tensor, choices: Sequence[Tensor]
) -> dict[str, int]:
    """The widths of least damage whose true cost is tolerated, else just above the budget, else the costliest below."""
    least, slack = budget.kept - budget.undershoot * budget.total, budget.kept - smallest(classes)
    limit = budget.kept + finest_step(classes)
    first = max(math.ceil((slack - budget.undershoot * budget.total) / unit), 0)
    reached = torch.nonzero(torch.isfinite(best)).flatten().tolist()
    above: dict[str, int] | None = None
    for left in sorted((left for left in reached if left >= first), key=lambda left: (float(best[left]), -left)):
        widths = _walk(classes, unit, choices, left)
        cost = cost_of(classes, widths)
        if least <= cost <= budget.kept:
            return widths
        if above is None and budget.kept < cost < limit:
            above = widths
    return above or _walk(classes, unit, choices, max(left for left in reached if left * unit <= max(slack, 0.0)))


def _walk(classes: Sequence[WidthClass], unit: int, choices: Sequence[Tensor], left: int) -> dict[str, int]:
    """The widths behind the entry ``left`` of the last table."""
    widths: dict[str, int] = {}
    for item, choice in zip(reversed(classes), reversed(choices), strict=True):
        index = int(choice[left])
        widths[item.name] = item.widths[index]
        left -= _bins(item, index, unit)
    return widths


def _bins(item: WidthClass, index: int, unit: int) -> int:
    """What the width ``item.widths[index]`` costs above the smallest, rounded up to multiples of ``unit``."""
    return -((item.prices[0] - item.prices[index]) // unit)


def _extend(best: Tensor, item: WidthClass, unit: int) -> tuple[Tensor, Tensor]:
    """One more class: least damage at every exact cost, and the index of the width that attains it."""
    damage = [0.0] * len(item.widths) if item.damage is None else item.damage.tolist()
    steps: dict[int, int] = {}
    for index in range(len(item.widths)):
        step = _bins(item, index, unit)
        if step > BINS:
            break
        if step not in steps or damage[index] <= damage[steps[step]]:
            steps[step] = index
    table = torch.full_like(best, float("inf"))
    choice = torch.zeros(BINS + 1, dtype=torch.int64)
    for step, index in steps.items():
        candidate = best[: BINS + 1 - step] + damage[index]
        better = candidate < table[step:]
        table[step:][better] = candidate[better]
        choice[step:][better] = index
    return table, choice


def spend(classes: Sequence[WidthClass], budget: Budget, widths: Mapping[str, int]) -> dict[str, int]:
    """Widen ``widths`` step by step, best predicted gain per cost first, while the budget allows.

    If more than the tolerated undershoot is then still unspent, the cheapest step is taken once more where it exceeds
    the budget by less than the :func:`finest_step`.
    """
    result = dict(widths)
    cost = cost_of(classes, result)

    def steps() -> list[tuple[float, int, str, int]]:
        """The next step of every class, best gain per cost first."""
        found = []
        for item in classes:
            index = item.widths.index(result[item.name])
            if index + 1 < len(item.widths):
                price = item.prices[index + 1] - item.prices[index]
                gain = 0.0 if item.damage is None else float(item.damage[index] - item.damage[index + 1])
                found.append((-gain / price if price else -math.inf, price, item.name, item.widths[index + 1]))
        return sorted(found)

    while options := [step for step in steps() if cost + step[1] <= budget.kept]:
        _, price, name, width = options[0]
        result[name] = width
        cost += price
    rest = sorted(steps(), key=lambda step: (step[1], step[0]))
    within = rest and cost + rest[0][1] - budget.kept < finest_step(classes)
    if within and budget.kept - cost > budget.undershoot * budget.total:
        result[rest[0][2]] = rest[0][3]
    return result
