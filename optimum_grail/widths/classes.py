"""Classes of widths: what one kind, one rounding and one stock config leave an allocation to choose from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

import torch
from torch import Tensor

from optimum_grail.core.budget import Budget, WidthClass, smallest
from optimum_grail.core.contracts import Allocation
from optimum_grail.core.groups import IN_MIXTURES, ChannelGroup
from optimum_grail.errors import BudgetError, shorten
from optimum_grail.models.layout import Layout
from optimum_grail.survey.findings import Findings
from optimum_grail.widths.request import FLAGS, Expressible, Request
from optimum_grail.widths.resources import Resource


@dataclass(frozen=True)
class Sharing:
    """What is to be shared out, and the rules.

    Args:
        layout: of the dense model.
        request: what the user asked for.
        method: its options limit the widths.
        accepts: what the stock config can say.
        findings: of the survey.
        resource: what the budget counts.
    """

    layout: Layout
    request: Request
    method: Allocation
    accepts: Expressible
    findings: Findings
    resource: Resource

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """Position in its stack, and number of blocks of that stack, by the block's path."""
        return {
            path: (index, len(stack.blocks)) for stack in self.layout.stacks for index, path in enumerate(stack.blocks)
        }

    @cached_property
    def protected(self) -> frozenset[str]:
        """Names of the groups that stay whole."""
        return protected_groups(self.layout, self.method)

    def may_go(self, block: str) -> bool:
        """Whether the block at this path may go altogether: nothing in it is protected."""
        return not self.protected & {group.name for group in self.layout.of_block(block)}

    @property
    def differs(self) -> bool:
        """Whether layers of one kind may get different widths, which no stock config can say."""
        whole = {group.tie for group in self.layout.groups if group.name in self.protected}
        return not self.method.tied or any(
            group.tie in whole and group.name not in self.protected for group in self.layout.groups
        )

    def shares(
        self, dropped: Sequence[str] = (), notes: list[str] | None = None
    ) -> Iterator[tuple[list[WidthClass], Budget]]:
        """Classes that share a budget, and the budget; what the user should know is added to ``notes``.

        Args:
            dropped: paths of blocks, and names of groups, that go altogether.
            notes: what the user should know is added here.
        """
        notes = [] if notes is None else notes
        free = self._free_kinds(notes)
        for groups in self._shared(dropped):
            classes = self.classes(groups, self.method.tied, free)
            budget = self._budget(classes, dropped)
            if self.request.standalone is None and smallest(classes) > budget.kept + budget.undershoot * budget.total:
                every = {str(group.kind) for group in groups}
                if free < every:
                    notes.append(
                        "The asked sparsity needs widths that the stock config cannot say: they go to the layer table."
                    )
                classes = self.classes(groups, self.method.tied, every)
                budget = self._budget(classes, dropped)
            yield classes, budget

    def classes(self, groups: Sequence[ChannelGroup], tied: bool, free: Iterable[str]) -> list[WidthClass]:
        """The classes of ``groups``; those of the kinds ``free`` may have widths that the stock config cannot say."""
        members: dict[tuple[str, bool], list[ChannelGroup]] = {}
        for group in groups:
            members.setdefault(self._bond(group, tied), []).append(group)
        return [
            self._class(name, item, None if item[0].kind in free and not item[0].uniform else self.accepts)
            for (name, _), item in members.items()
        ]

    def _bond(self, group: ChannelGroup, tied: bool) -> tuple[str, bool]:
        """A key per group: groups with the same key get the same width."""
        if group.uniform:
            return group.uniform, False
        kept = group.name in self.protected
        return (group.tie if tied and not kept else group.name), kept

    def _class(self, name: str, groups: Sequence[ChannelGroup], accepts: Expressible | None) -> WidthClass:
        first = groups[0]
        whole = any(group.name in self.protected for group in groups)
        widths = (first.units,) if whole else self._widths(groups, accepts)
        return WidthClass(
            name=name,
            kind=first.kind,
            groups=tuple(group.name for group in groups),
            units=first.units,
            widths=widths,
            cost=self._cost(groups, widths),
            damage=self._damage(groups, widths),
            block=first.block,
            place=self.places[first.block],
            signals=self._signals(groups),
        )

    def _widths(self, groups: Sequence[ChannelGroup], accepts: Expressible | None) -> tuple[int, ...]:
        kind, units = groups[0].kind, groups[0].units
        inside = "expert-channels" in self.request.kinds  # then it is meant for these
        step = 1 if kind == "heads" or (kind == "experts" and inside) else self.method.round_to
        least = -(-max(self.method.least(kind, units), groups[0].fewest) // step) * step
        widths = [width for width in range(least, units, step) if accepts is None or accepts(groups, width)]
        return (*widths, units)

    def _cost(self, groups: Sequence[ChannelGroup], widths: Sequence[int]) -> int | tuple[int, ...]:
        if self.request.sparsity is None:
            return len(groups)
        costs = [self.resource.costs[group.name] for group in groups]
        if all(isinstance(cost, int) for cost in costs):
            return sum(cost for cost in costs if isinstance(cost, int))
        return tuple(sum(c * width if isinstance(c, int) else c[width] for c in costs) for width in widths)

    def _damage(self, groups: Sequence[ChannelGroup], widths: Sequence[int]) -> Tensor | None:
        curves = self.findings.curves
        if not curves or groups[0].kind in IN_MIXTURES:
            return None
        chosen = torch.tensor(widths)
        return torch.stack([curves[group.name].damages(chosen) for group in groups]).sum(0)

    def _signals(self, groups: Sequence[ChannelGroup]) -> Mapping[str, Tensor]:
        found = {name: [values.get(group.name) for group in groups] for name, values in self.findings.signals.items()}
        whole = {name: [value for value in values if value is not None] for name, values in found.items()}
        return {name: torch.stack(values) for name, values in whole.items() if len(values) == len(groups)}

    def _shared(self, dropped: Sequence[str]) -> Iterator[list[ChannelGroup]]:
        """Groups that share a budget."""
        groups = [group for group in self.layout.groups if group.units and not {group.block, group.name} & set(dropped)]
        if self.request.sparsity is not None:
            yield groups
            return
        for kind, fraction in self.request.kinds.items():
            kinds = {kind, "shared-channels"} if kind == "expert-channels" else {kind}
            named = [group for group in groups if group.kind in kinds]
            if not named:
                known = ", ".join(sorted({FLAGS[group.kind] for group in groups}))
                why = next((f" {s.spec.impossible[kind]}" for s in self.layout.stacks if kind in s.spec.impossible), "")
                raise BudgetError(
                    f"{FLAGS[kind]} {fraction:g}: this model has no groups of kind {kind!r}.{why} It takes {known}."
                )
            yield named

    def _budget(self, classes: Sequence[WidthClass], dropped: Sequence[str]) -> Budget:
        if self.request.sparsity is None:
            return _unit_budget(classes, self.request.kinds[classes[0].kind])
        resource = self.resource
        asked = self.request.words
        if resource.name not in ("parameters", "bytes"):
            asked += f" of the {resource.name}"
        gone = sum(resource.whole(place) for place in dropped)
        whole = sum(item.whole for item in classes)
        return Budget(
            whole - max(resource.asked - gone, 0.0),
            resource.total,
            asked=asked,
            resource=resource.name,
            outside=self.request.outside(self.layout),
        )

    def _free_kinds(self, notes: list[str]) -> set[str]:
        """Kinds that may take any width, because the user or the family leaves no other way."""
        request, kinds = self.request, {str(group.kind) for group in self.layout.groups}
        stock = {kind for kind in kinds if any(self._stock_widths(kind))}
        if request.standalone is False:
            return kinds
        if request.standalone:
            named = sorted(set(request.kinds) - stock)
            if named or self.differs or not stock:
                what = (
                    f"kind {named[0]!r}" if named else "free widths per layer" if stock else "any kind of this family"
                )
                raise BudgetError(
                    f"The stock config cannot say {what}, so nothing of it can go in a standalone checkpoint (largest "
                    "reachable sparsity: 0). Drop --standalone, or pass --no-standalone."
                )
            return set()
        if self.differs:
            notes.append("Widths differ between layers: the checkpoint needs `import optimum_grail` before loading.")
            return kinds
        free = (set(request.kinds) - stock) if stock else kinds
        if free:
            notes.append(
                f"The stock config cannot say the width of {', '.join(sorted(free))}: it goes to the layer table, and "
                "the checkpoint needs `import optimum_grail` before loading."
            )
        return free

    def _stock_widths(self, kind: str) -> Iterable[bool]:
        for group in self.layout.groups:
            if group.kind == kind:
                yield any(self.accepts([group], width) for width in range(1, group.units))


def protected_groups(layout: Layout, method: Allocation) -> frozenset[str]:
    """Names of the groups that ``method`` leaves whole.

    Raises:
        BudgetError: a position outside a stack, or a pattern that fits no name.
    """
    found: set[str] = set()
    for stack in layout.stacks:
        blocks = {stack.blocks[position] for position in method.protected(len(stack.blocks))}
        found |= {group.name for group in layout.groups if group.block in blocks}
    for pattern in method.patterns:
        named = {g.name for g in layout.groups if _fits(g.name, pattern) or _fits(g.block, pattern)}
        if not named:
            names = list(dict.fromkeys(name for g in layout.groups for name in (g.block, g.name)))
            raise BudgetError(
                f"protect names {shorten(pattern)}, but no layer and nothing that shrinks in one is called that. Names "
                f"are, for example, {', '.join(names[:3])}; first words may be left out, and * stands for anything."
            )
        found |= named
    return frozenset(found)


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _unit_budget(classes: Sequence[WidthClass], fraction: float) -> Budget:
    """A budget in units: every class at the allowed width nearest to its share."""
    kept = 0
    for item in classes:
        flag, share = FLAGS[item.kind], (1 - fraction) * item.units
        if share < 0.5:
            raise BudgetError(
                f"{flag} {fraction:g} leaves none of {item.units} in {item.groups[0]!r}; expected at most "
                f"{1 - 1 / item.units:.4g}."
            )
        if item.kind == "experts" and share < item.widths[0] - 0.5:
            raise BudgetError(
                f"{flag} {fraction:g} leaves {share:g} of {item.units} in {item.groups[0]!r}, fewer than the "
                f"{item.widths[0]} that must stay: those that a token goes through, rounded up to --round-to. Expected "
                f"at most {1 - item.widths[0] / item.units:.4g}."
            )
        kept += item.price(item.nearest(share))
    whole = sum(item.whole for item in classes)
    return Budget(kept, whole, asked=f"{FLAGS[classes[0].kind]} {fraction:g}", resource="units")
