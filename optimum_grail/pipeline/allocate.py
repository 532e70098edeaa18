"""Allocate: from the asked sparsity to units per group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from optimum_grail.core.budget import Budget, WidthClass, check_reachable, finest_step, minimise, predicted, smallest
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.problem import Allocation as AllocationMethod
from optimum_grail.errors import BudgetError
from optimum_grail.models.layout import Layout
from optimum_grail.pipeline.survey import Curve

FLAGS = {"mlp": "--ffn-sparsity", "heads": "--head-sparsity", "conv": "--channel-sparsity"}
BISECTIONS = 12
"""How often a budget is narrowed down where costs do not add up."""
Accepts = Callable[[Sequence[ChannelGroup], int], bool]
"""``(groups of one width, units kept) -> whether the stock config can say it``."""


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Args:
        sparsity: fraction of the blocks' parameters that goes, or ``None`` when ``kinds`` is given.
        kinds: fraction of the units that goes, by kind.
        round_to: FFN and convolution widths are multiples of this.
        standalone: ``True``: only widths the stock config can say; ``False``: any; ``None``: where possible.
        dense: parameters of the blocks that ``sparsity`` is a fraction of, where they differ from the layout's
            (biases were added).
    """

    sparsity: float | None
    kinds: Mapping[str, float] = field(default_factory=dict)
    round_to: int = 1
    standalone: bool | None = None
    dense: int | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any], round_to: int, dense: int | None = None) -> Request:
        """The request of a resolved configuration."""
        kinds = {kind: settings[flag.strip("-").replace("-", "_")] for kind, flag in FLAGS.items()}
        named = {kind: value for kind, value in kinds.items() if value is not None}
        return cls(settings["sparsity"], named, round_to, settings["standalone"], dense)

    def asked(self, layout: Layout) -> float:
        """Parameters of the blocks of ``layout`` that have to go."""
        dense = layout.block_parameters if self.dense is None else self.dense
        return layout.block_parameters - (1 - (self.sparsity or 0.0)) * dense


@dataclass(frozen=True)
class Widths:
    """The outcome.

    Args:
        kept: units to keep per group, every group of the layout included.
        predicted: predicted damage, or ``None`` without curves.
        predicted_free: the same for free widths per group, if that was not what was asked for.
        notes: what the user should know (kinds left whole, kinds that need the per-layer table).
    """

    kept: dict[str, int]
    predicted: float | None = None
    predicted_free: float | None = None
    notes: tuple[str, ...] = ()


def allocate(
    layout: Layout,
    request: Request,
    method: AllocationMethod,
    accepts: Accepts,
    curves: Mapping[str, Curve] | None = None,
) -> Widths:
    """Share the budget out.

    Raises:
        BudgetError: the request cannot be reached, prunes nothing, or leaves a group without units.
    """
    notes: list[str] = []
    kept = {group.name: group.units for group in layout.groups}
    for classes, budget in _shares(layout, request, method, accepts, curves, notes):
        widths = _exact(layout, request, method, classes, budget)
        kept |= {name: widths[item.name] for item in classes for name in item.groups}
    _check_something_goes(layout, kept)
    whole = sorted({g.kind for g in layout.groups} - {g.kind for g in layout.groups if kept[g.name] < g.units})
    notes += [f"Groups of kind {kind!r} stay whole." for kind in whole]
    return Widths(kept, *_forecast(layout, request, method, kept, accepts, curves), tuple(notes))


def check_request(layout: Layout, request: Request, method: AllocationMethod, accepts: Accepts) -> None:
    """Refuse what :func:`allocate` would refuse whatever the curves say, before anything is measured.

    Raises:
        BudgetError: the request cannot be reached, or leaves a group without units.
    """
    for classes, budget in _shares(layout, request, method, accepts, None, []):
        check_reachable(classes, budget)


def _shares(
    layout: Layout,
    request: Request,
    method: AllocationMethod,
    accepts: Accepts,
    curves: Mapping[str, Curve] | None,
    notes: list[str],
) -> Iterator[tuple[list[WidthClass], Budget]]:
    """Classes that share a budget, and the budget; what the user should know is added to ``notes``."""
    free = _free_kinds(layout, request, method, accepts, notes)
    for groups, budget_of in _budgets(layout, request):
        classes = _classes(groups, request, method.tied, accepts, free, curves)
        budget = budget_of(classes)
        if request.standalone is None and smallest(classes) > budget.kept + budget.undershoot * budget.total:
            free = {str(group.kind) for group in groups}
            notes.append(
                "The asked sparsity needs widths that the stock config cannot say: they go to the layer table."
            )
            classes = _classes(groups, request, method.tied, accepts, free, curves)
        yield classes, budget


def _exact(
    layout: Layout, request: Request, method: AllocationMethod, classes: Sequence[WidthClass], budget: Budget
) -> dict[str, int]:
    """Widths whose exact parameter count meets the budget.

    Costs per unit add up except where two groups meet in one module (the middle convolution of a bottleneck), where the
    sum overstates what goes: the budget is then narrowed down until the count is right.
    """
    widths = method(classes, budget)
    if request.sparsity is None:
        return widths
    asked, low, high = request.sparsity * layout.block_parameters, float(smallest(classes)), budget.kept
    excess, step = budget.undershoot * budget.total, finest_step(classes)
    tried: list[tuple[float, dict[str, int]]] = []
    for _ in range(BISECTIONS):
        gone = layout.removed_parameters({name: widths[item.name] for item in classes for name in item.groups})
        sums = sum(item.cost * (item.units - widths[item.name]) for item in classes)
        if gone == sums or 0 <= gone - asked <= excess:
            return widths
        tried.append((gone - asked, widths))
        guess = budget.kept - (asked - gone) if not tried[1:] else (low + high) / 2
        low, high = (budget.kept, high) if gone >= asked else (low, budget.kept)
        budget = replace(budget, kept=max(guess, low))
        widths = method(classes, budget)
    return min(tried, key=lambda item: (not -step < item[0] <= excess, abs(item[0])))[1]


BudgetOf = Callable[[Sequence[WidthClass]], Budget]


def _budgets(layout: Layout, request: Request) -> Iterable[tuple[list[ChannelGroup], BudgetOf]]:
    """Groups that share a budget, and the budget given their classes."""
    if request.sparsity is not None:
        units = sum(group.cost * group.units for group in layout.groups)
        asked = f"A sparsity of {request.sparsity:g}"
        budget = Budget(units - request.asked(layout), layout.block_parameters, asked=asked)
        yield list(layout.groups), partial(_given, budget=budget)
        return
    for kind, fraction in request.kinds.items():
        groups = [group for group in layout.groups if group.kind == kind]
        if not groups:
            known = ", ".join(sorted(FLAGS[k] for k in {g.kind for g in layout.groups}))
            raise BudgetError(
                f"{FLAGS[kind]} {fraction:g}: this model has no groups of kind {kind!r}. It takes {known}."
            )
        yield groups, partial(_unit_budget, kind=kind, fraction=fraction)


def _given(classes: Sequence[WidthClass], budget: Budget) -> Budget:
    return budget


def _unit_budget(classes: Sequence[WidthClass], kind: str, fraction: float) -> Budget:
    """A budget in units: every class at the allowed width nearest to its share."""
    kept = 0
    for item in classes:
        share = (1 - fraction) * item.units
        if share < 0.5:
            raise BudgetError(
                f"{FLAGS[kind]} {fraction:g} leaves no unit of {item.units} in {item.groups[0]!r}; expected at most "
                f"{1 - 1 / item.units:.4g}."
            )
        kept += item.cost * item.nearest(share)
    return Budget(kept, sum(item.cost * item.units for item in classes), asked=f"{FLAGS[kind]} {fraction:g}")


def _free_kinds(
    layout: Layout, request: Request, method: AllocationMethod, accepts: Accepts, notes: list[str]
) -> set[str]:
    """Kinds that may take any width, because the user or the family leaves no other way."""
    kinds: set[str] = {group.kind for group in layout.groups}
    stock = {kind for kind in kinds if any(_stock_widths(layout, kind, accepts))}
    if request.standalone is False:
        return kinds
    if request.standalone:
        named = sorted(set(request.kinds) - stock)
        if named or not method.tied or not stock:
            what = f"kind {named[0]!r}" if named else "free widths per layer" if stock else "any kind of this family"
            raise BudgetError(
                f"The stock config cannot say {what}, so nothing of it can go in a standalone checkpoint (largest "
                "reachable sparsity: 0). Drop --standalone, or pass --no-standalone."
            )
        return set()
    if not method.tied:
        notes.append("Widths differ between layers: the checkpoint needs `import optimum_grail` before loading.")
        return kinds
    free = (set(request.kinds) - stock) if stock else kinds
    if free:
        notes.append(
            f"The stock config cannot say the width of {', '.join(sorted(free))}: it goes to the layer table, and the "
            "checkpoint needs `import optimum_grail` before loading."
        )
    return free


def _stock_widths(layout: Layout, kind: str, accepts: Accepts) -> Iterable[bool]:
    for group in layout.groups:
        if group.kind == kind:
            yield any(accepts([group], width) for width in range(1, group.units))


def _classes(
    groups: Sequence[ChannelGroup],
    request: Request,
    tied: bool,
    accepts: Accepts,
    free: set[str],
    curves: Mapping[str, Curve] | None,
) -> list[WidthClass]:
    members: dict[str, list[ChannelGroup]] = {}
    for group in groups:
        members.setdefault(group.tie if tied else group.name, []).append(group)
    count_units = request.sparsity is None
    classes = []
    for name, item in members.items():
        widths = _allowed(item, request.round_to, None if item[0].kind in free else accepts)
        damage = None
        if curves is not None:
            damage = torch.tensor(
                [sum(curves[g.name].damage(width) for g in item) for width in widths], dtype=torch.float64
            )
        cost = len(item) if count_units else sum(group.cost for group in item)
        names = tuple(group.name for group in item)
        classes.append(WidthClass(name, item[0].kind, names, item[0].units, widths, cost, damage))
    return classes


def _allowed(groups: Sequence[ChannelGroup], round_to: int, accepts: Accepts | None) -> tuple[int, ...]:
    units = groups[0].units
    step = round_to if groups[0].kind != "heads" else 1
    widths = [width for width in range(step, units, step) if accepts is None or accepts(groups, width)]
    return (*widths, units)


def _check_something_goes(layout: Layout, kept: Mapping[str, int]) -> None:
    if all(kept[group.name] == group.units for group in layout.groups):
        raise BudgetError(
            "The request prunes nothing: every group keeps all its units after rounding. Ask for a higher sparsity or "
            "lower --round-to."
        )


def _forecast(
    layout: Layout,
    request: Request,
    method: AllocationMethod,
    kept: Mapping[str, int],
    accepts: Accepts,
    curves: Mapping[str, Curve] | None,
) -> tuple[float | None, float | None]:
    """Predicted damage of ``kept``, and of free widths per group at the same cost."""
    if curves is None:
        return None, None
    ours = sum(curves[group.name].damage(kept[group.name]) for group in layout.groups)
    if not method.tied or request.sparsity is None or request.standalone is False:
        return ours, None
    for groups, _ in _budgets(layout, request):
        kinds: set[str] = {group.kind for group in groups}
        classes = _classes(groups, request, False, accepts, kinds, curves)
        budget = Budget(sum(item.cost * kept[item.name] for item in classes), layout.block_parameters)
        widths = minimise(classes, budget)
        return ours, predicted(classes, widths)
    return ours, None
