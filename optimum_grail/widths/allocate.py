"""Allocate: from the asked sparsity to units per group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from optimum_grail.core.budget import Budget, WidthClass, check_reachable, finest_step, minimise, predicted, smallest
from optimum_grail.core.contracts import Allocation, Share
from optimum_grail.errors import BudgetError
from optimum_grail.models.layout import Layout
from optimum_grail.survey.findings import Findings
from optimum_grail.widths.classes import Sharing, protected_groups
from optimum_grail.widths.drops import drop_sets
from optimum_grail.widths.head_size import head_notes, new_head_sizes, pairs_left
from optimum_grail.widths.request import NOUNS, Expressible, Request
from optimum_grail.widths.resources import Removed, resource_of

BISECTIONS = 12
"""How often a budget is narrowed down where costs do not add up."""
SHORTER = 4
"""Most candidates with dropped blocks that are rehearsed."""
SAME_DEPTH = 2
"""Most of them that drop the same number of blocks."""
PAYS = 1.05
"""Every dropped block has to pay: with few samples to fit on, fewer layers look better than they are."""
RIVALS = 1.25
"""Rivals that are predicted to do more than so many times the least damage are not rehearsed: wherever one was, it lost
(docs/adr/0012)."""
Judge = Callable[[Mapping[str, int], Sequence[str]], float]
"""``(units per group, dropped blocks) -> loss``."""


@dataclass(frozen=True)
class Widths:
    """The outcome.

    Args:
        kept: units to keep per group, every group of the layout included.
        predicted: predicted damage, or ``None`` without curves.
        predicted_free: the same for free widths per group, if that was not what was asked for.
        predicted_half: the same if half as much were to go.
        notes: what the user should know (kinds left whole, kinds that need the per-layer table).
        dropped: paths of blocks that go altogether.
        budget: name of what the budget counts.
        removed: fraction of it that goes, or ``None`` for parameters, which the result itself tells.
        pairs: rotation pairs that stay in every head, int64, by owner; of owners not named, and before they were
            measured, nothing is said.
    """

    kept: dict[str, int]
    predicted: float | None = None
    predicted_free: float | None = None
    predicted_half: float | None = None
    notes: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    budget: str = "parameters"
    removed: float | None = None
    pairs: Mapping[str, Tensor] = field(default_factory=dict)


def allocate(
    layout: Layout,
    request: Request,
    method: Allocation,
    accepts: Expressible,
    findings: Findings | None = None,
    judge: Judge | None = None,
) -> Widths:
    """Share the budget out.

    Args:
        layout: of the dense model.
        request: what the user asked for.
        method: the allocation.
        accepts: what the stock config can say.
        findings: what the survey found out.
        judge: the loss that widths and dropped blocks really lead to; chooses where the method has rivals. ``None``
            leaves it with what is predicted.

    Raises:
        BudgetError: the request cannot be reached, prunes nothing, or leaves a group without units.
    """
    if request.idle:
        return Widths(dict(layout.widths))
    findings = findings or Findings()
    resource = resource_of(method.budget, layout, request, findings)
    sharing = Sharing(layout, request, method, accepts, findings, resource)
    notes: list[str] = []
    candidates = _candidates(sharing, notes)
    chosen = _chosen(candidates, judge, notes)
    if request.inside is None:
        _check_something_goes(layout, chosen)
    kept = {name: units for name, units in chosen.kept.items() if layout.group(name).block not in chosen.dropped}
    shrunk = {layout.group(name).kind for name in kept if kept[name] < layout.widths[name]}
    asked = {group.kind for group in layout.groups if request.sparsity is not None or group.kind in request.kinds}
    notes += [f"All {NOUNS[kind]} stay." for kind in sorted(asked - shrunk)]
    free = None if chosen.dropped else _predicted_free(sharing, chosen.kept)
    removed = None if resource.name == "parameters" else resource.fraction(kept, chosen.dropped)
    half = _predicted_half(sharing)
    return replace(
        chosen,
        predicted_free=free,
        predicted_half=half,
        notes=(*notes, *head_notes(layout, request)),
        budget=resource.name,
        removed=removed,
        pairs=pairs_left(layout, request, findings),
    )


def check_request(layout: Layout, request: Request, method: Allocation, accepts: Expressible) -> tuple[WidthClass, ...]:
    """Refuse what :func:`allocate` would refuse whatever the survey says, before anything is measured.

    Returns:
        the widths there are to choose from; none where they cost what is still to be measured.

    Raises:
        BudgetError: the request cannot be reached, or leaves a group without units.
    """
    if request.idle:
        return ()
    new_head_sizes(layout, request, protected_groups(layout, method))
    if method.needs & {"positions", "latency"} and request.sparsity is not None:
        return ()  # costs are not known before they are measured
    resource = resource_of(method.budget, layout, request, Findings())
    sharing = Sharing(layout, request, method, accepts, Findings(), resource)
    found: list[WidthClass] = []
    for classes, budget in sharing.shares():
        check_reachable(classes, budget)
        found += classes
    return tuple(found)


def _candidates(sharing: Sharing, notes: list[str]) -> list[Widths]:
    """The method's own widths first, then its rivals', then those with blocks dropped, best predicted first."""
    own = _widths(sharing, sharing.method, _dropped_first(sharing), notes)
    if sharing.request.sparsity is None or not sharing.findings.curves or own.predicted is None:
        return [own]
    rivals = [_widths(sharing, rival) for rival in sharing.method.rivals()]
    rivals = [rival for rival in rivals if (rival.predicted or 0.0) <= RIVALS * own.predicted]
    shorter = [_widths(sharing, sharing.method, dropped) for dropped in drop_sets(sharing)]
    shorter.sort(key=lambda widths: widths.predicted or 0.0)
    found: list[Widths] = []
    for widths in (own, *rivals, *_varied(shorter)):
        if all((widths.kept, widths.dropped) != (other.kept, other.dropped) for other in found):
            found.append(widths)
    return found


def _dropped_first(sharing: Sharing) -> tuple[str, ...]:
    """Paths of blocks, or names of groups, that the method drops by their influence, of those that may go."""
    influence, resource = sharing.findings.of("influence"), sharing.resource
    if sharing.request.sparsity is None:
        return ()
    firsts = {group.block: group.name for group in reversed(sharing.layout.groups)}
    if "part-influence" in sharing.method.needs:
        influence = sharing.findings.of("part-influence")
        names = {group.name: group.name for group in sharing.layout.groups if group.name not in sharing.protected}
    else:
        names = {path: firsts[path] for path in sharing.places if sharing.may_go(path) and path in resource.blocks}
    known = {place: influence[name] for place, name in names.items() if name in influence}
    sizes = {place: resource.whole(place) for place in known}
    return sharing.method.dropped({place: float(value) for place, value in known.items()}, sizes, resource.asked)


def _varied(shorter: Sequence[Widths]) -> list[Widths]:
    """The best predicted ones, at most ``SAME_DEPTH`` of one number of dropped blocks."""
    counts: Counter[int] = Counter()
    found = []
    for widths in shorter:
        counts[len(widths.dropped)] += 1
        if counts[len(widths.dropped)] <= SAME_DEPTH:
            found.append(widths)
    return found[:SHORTER]


def _widths(sharing: Sharing, share: Share, dropped: tuple[str, ...] = (), notes: list[str] | None = None) -> Widths:
    """The widths of one candidate, which drops the blocks and groups ``dropped``, and the damage predicted for it."""
    findings = sharing.findings
    kept = {name: 0 if name in dropped else units for name, units in sharing.layout.widths.items()}
    for classes, budget in sharing.shares(dropped, notes):
        widths = _exact(sharing, share, classes, budget)
        kept |= {name: widths[item.name] for item in classes for name in item.groups}
    dropped = tuple(path for path in dropped if path in sharing.places)
    if not findings.curves:
        return Widths(kept, dropped=dropped)
    damage = sum(float(findings.of("drops")[path]) for path in dropped)
    damage += sum(curve.damage(kept[name]) for name, curve in findings.curves.items())
    return Widths(kept, damage, dropped=dropped)


def _chosen(candidates: Sequence[Widths], judge: Judge | None, notes: list[str]) -> Widths:
    """The candidate that the judge finds best; without one, that of least predicted damage and the first of equals."""
    if judge is None or len(candidates) == 1:
        return min(candidates, key=lambda widths: widths.predicted or 0.0) if candidates[0].predicted else candidates[0]
    losses = [judge(widths.kept, widths.dropped) for widths in candidates]
    best = min(range(len(candidates)), key=lambda index: losses[index] * PAYS ** len(candidates[index].dropped))
    if best > 0:
        dropped = ", ".join(candidates[best].dropped)
        what = f"leaving out {dropped}" if dropped else "another way of sharing the cuts"
        notes.append(
            f"Tried on part of the calibration data, {what} did less damage than what was "
            f"predicted to be best: a loss of {losses[best]:.4g} instead of {losses[0]:.4g}."
        )
    return candidates[best]


def _exact(sharing: Sharing, share: Share, classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
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


def _check_something_goes(layout: Layout, widths: Widths) -> None:
    if not widths.dropped and all(widths.kept[group.name] == group.units for group in layout.groups):
        raise BudgetError(
            "The request prunes nothing: every layer keeps all its heads and channels after rounding. Ask for a higher "
            "sparsity or lower --round-to."
        )


def _predicted_half(sharing: Sharing) -> float | None:
    """Predicted damage if half as much went; ``None`` without curves, or where rounding leaves nothing to go."""
    request = sharing.request
    if not sharing.findings.curves or request.sparsity is None:
        return None
    request = replace(request, sparsity=request.sparsity / 2, size=None)
    resource = resource_of(sharing.method.budget, sharing.layout, request, sharing.findings)
    half = replace(sharing, request=request, resource=resource)
    try:
        return _widths(half, half.method, _dropped_first(half)).predicted
    except BudgetError:
        return None


def _predicted_free(sharing: Sharing, kept: Mapping[str, int]) -> float | None:
    """Predicted damage of free widths per group at the cost of ``kept``, where that is not what was asked for."""
    tied = sharing.method.tied and sharing.request.standalone is not False
    if not sharing.findings.curves or not tied or sharing.request.sparsity is None:
        return None
    groups = sharing.layout.groups
    classes = sharing.classes(groups, False, {group.kind for group in groups})
    spent = sum(item.price(kept[item.groups[0]]) for item in classes)
    return predicted(classes, minimise(classes, Budget(spent, sharing.resource.total)))
