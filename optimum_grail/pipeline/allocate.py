"""Allocate: from the asked sparsity to units per group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from optimum_grail.core.allocation import Allocation
from optimum_grail.core.budget import Budget, WidthClass, check_reachable, finest_step, minimise, predicted, smallest
from optimum_grail.errors import BudgetError
from optimum_grail.models.layout import Layout
from optimum_grail.pipeline.classes import Sharing
from optimum_grail.pipeline.findings import Findings
from optimum_grail.pipeline.request import Accepts, Request
from optimum_grail.pipeline.resources import Removed, parameters

BISECTIONS = 12
"""How often a budget is narrowed down where costs do not add up."""
Sharer = Callable[[Sequence[WidthClass], Budget], dict[str, int]]


@dataclass(frozen=True)
class Widths:
    """The outcome.

    Args:
        kept: units to keep per group, every group of the layout included.
        predicted: predicted damage, or ``None`` without curves.
        predicted_free: the same for free widths per group, if that was not what was asked for.
        notes: what the user should know (kinds left whole, kinds that need the per-layer table).
        dropped: paths of blocks that go altogether.
    """

    kept: dict[str, int]
    predicted: float | None = None
    predicted_free: float | None = None
    notes: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def allocate(
    layout: Layout,
    request: Request,
    method: Allocation,
    accepts: Accepts,
    findings: Findings | None = None,
) -> Widths:
    """Share the budget out.

    Raises:
        BudgetError: the request cannot be reached, prunes nothing, or leaves a group without units.
    """
    findings = findings or Findings()
    sharing = Sharing(layout, request, method, accepts, findings, parameters(layout, request, findings))
    notes: list[str] = []
    kept = dict(layout.widths)
    for classes, budget in sharing.shares((), notes):
        widths = _exact(sharing, method, classes, budget)
        kept |= {name: widths[item.name] for item in classes for name in item.groups}
    _check_something_goes(layout, kept)
    whole = sorted({g.kind for g in layout.groups} - {g.kind for g in layout.groups if kept[g.name] < g.units})
    notes += [f"Groups of kind {kind!r} stay whole." for kind in whole]
    return Widths(kept, *_forecast(sharing, kept), tuple(notes))


def check_request(layout: Layout, request: Request, method: Allocation, accepts: Accepts) -> None:
    """Refuse what :func:`allocate` would refuse whatever the survey says, before anything is measured.

    Raises:
        BudgetError: the request cannot be reached, or leaves a group without units.
    """
    sharing = Sharing(layout, request, method, accepts, Findings(), parameters(layout, request, Findings()))
    for classes, budget in sharing.shares():
        check_reachable(classes, budget)


def _exact(sharing: Sharing, share: Sharer, classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
    """Widths whose exact cost meets the budget.

    Costs per unit add up except where two groups meet in one module (the middle convolution of a bottleneck), where the
    sum overstates what goes: the budget is then narrowed down until the count is right.
    """
    widths = share(classes, budget)
    if sharing.request.sparsity is None:
        return widths
    removed: Removed = sharing.resource.removed
    whole = sum(item.whole for item in classes)
    asked, low, high = whole - budget.kept, float(smallest(classes)), budget.kept
    excess, step = budget.undershoot * budget.total, finest_step(classes)
    tried: list[tuple[float, dict[str, int]]] = []
    for _ in range(BISECTIONS):
        gone = removed({name: widths[item.name] for item in classes for name in item.groups})
        sums = sum(item.whole - item.price(widths[item.name]) for item in classes)
        if gone == sums or 0 <= gone - asked <= excess:
            return widths
        tried.append((gone - asked, widths))
        guess = budget.kept - (asked - gone) if not tried[1:] else (low + high) / 2
        low, high = (budget.kept, high) if gone >= asked else (low, budget.kept)
        budget = replace(budget, kept=max(guess, low))
        widths = share(classes, budget)
    return min(tried, key=lambda item: (not -step < item[0] <= excess, abs(item[0])))[1]


def _check_something_goes(layout: Layout, kept: Mapping[str, int]) -> None:
    if all(kept[group.name] == group.units for group in layout.groups):
        raise BudgetError(
            "The request prunes nothing: every group keeps all its units after rounding. Ask for a higher sparsity or "
            "lower --round-to."
        )


def _forecast(sharing: Sharing, kept: Mapping[str, int]) -> tuple[float | None, float | None]:
    """Predicted damage of ``kept``, and of free widths per group at the same cost."""
    curves, groups = sharing.findings.curves, sharing.layout.groups
    if not curves:
        return None, None
    ours = sum(curves[group.name].damage(kept[group.name]) for group in groups)
    if not sharing.method.tied or sharing.request.sparsity is None or sharing.request.standalone is False:
        return ours, None
    classes = sharing.classes(groups, False, {group.kind for group in groups})
    spent = sum(item.price(kept[item.name]) for item in classes)
    return ours, predicted(classes, minimise(classes, Budget(spent, sharing.resource.total)))
