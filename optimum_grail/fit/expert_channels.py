"""Channels inside experts: every expert chooses its own, by its own rows, and all of a layer keep equally many.

The algebra sees one problem per expert, as small as that of one feed-forward layer: its features are what enters
``down_proj`` times the gate, on the rows that the router sends there. Dropping channels reroutes nothing, so that all
experts are measured as they are, narrowed together, and then refitted as whole experts are
(:class:`optimum_grail.fit.experts.ExpertFit`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup, Port
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.problem import GroupProblem
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.fit.experts import ROWS, ExpertFit, experts_at_once
from optimum_grail.fit.methods import Methods
from optimum_grail.models.banks import producers_of
from optimum_grail.models.matrix import columns, to_matrix
from optimum_grail.models.surgery import apply_
from optimum_grail.selectors.magnitude import Magnitude
from optimum_grail.streams.blocks import BlockRun
from optimum_grail.streams.expert_collect import ExpertCollector
from optimum_grail.streams.probe import Wanted
from optimum_grail.streams.problems import collector_for

ERRORS = ("plain_error", "fit_error", "plain_held_error", "held_error")


@dataclass(frozen=True)
class Narrowed:
    """What became of one expert.

    Args:
        reduction: which of its channels stay, or how they merge.
        weight: what ``down_proj`` becomes, float64, ``[H, kept]``.
        rows: calibration rows that were sent to it.
        told: what the compensator had to say.
    """

    reduction: Reduction
    weight: Tensor
    rows: int
    told: Mapping[str, Any]


@dataclass(frozen=True)
class ChannelFit:
    """Compresses the channels inside the experts of one block after another.

    Args:
        model: the student.
        methods: the methods; the selector of channels and the compensator are used.
        seed: seed of random choices.
    """

    model: nn.Module
    methods: Methods
    seed: int

    def data_free_(self, group: ChannelGroup, keep: int) -> GroupPlan:
        """Take channels away without looking at data."""
        return self._apply_(group, [self._narrow(problem, keep, 0) for problem in self._problems(group)])

    def compress_(self, run: BlockRun, group: ChannelGroup, keep: int, wanted: Wanted) -> GroupPlan:
        """Leave ``keep`` channels in every expert of ``group``, and refit what reads them.

        Args:
            run: the block that holds the group; its streams do not move.
            group: the channels, all of them.
            keep: how many stay in each expert.
            wanted: what is compared between the two streams.
        """
        comp = self.methods.compensator
        if not comp.needs and not self.methods.selector.needs:
            return self.data_free_(group, keep)
        unfolded = copy.deepcopy(run.block)
        experts = self._measured(run, group, keep)
        plan = self._apply_(group, experts)
        if comp.needs and (self.methods.two_streams or not plan.reduction.is_selection):
            self._refit_(run, group, wanted, unfolded, [trust_in(item) for item in experts])
        return plan

    def _measured(self, run: BlockRun, group: ChannelGroup, keep: int) -> list[Narrowed]:
        """What becomes of every expert, measured on the student's stream, a few experts at a time."""
        alone = replace(run, targets=None, shortcuts=None)
        whole = collector_for(self.model, group, "held-out" in self.methods.needs, run.batches.ranks)
        problems, found = self._problems(group), list[Narrowed]()
        share = experts_at_once(self.model, group)
        for start in range(0, len(problems), share):
            some = range(start, min(start + share, len(problems)))
            collector = ExpertCollector.of(group, whole, some)
            alone.measure([collector], Wanted(features=True))
            for expert in some:
                rows = collector.rows(expert)
                statistics = collector.statistics(expert, run.batches.crossed) if rows else None
                found.append(self._narrow(replace(problems[expert], statistics=statistics), keep, rows))
        return found

    def _problems(self, group: ChannelGroup) -> list[GroupProblem]:
        """Every expert as numbers."""
        bank = self.model.get_submodule(group.consumer.module)
        weights = to_matrix(bank).split(group.units, 1)
        return [
            GroupProblem(
                name=f"{group.name}.{expert}",
                units=group.units,
                weight=weight.clone(),
                producers=producers_of(bank, expert),
                seed=self.seed,
            )
            for expert, weight in enumerate(weights)
        ]

    def _narrow(self, problem: GroupProblem, keep: int, rows: int) -> Narrowed:
        """Choose channels of one expert and compensate for the others; one that saw no rows goes by its weights."""
        selector, comp = self.methods.selector, self.methods.compensator
        unseen = problem.statistics is None
        selection = Magnitude()(problem, keep) if unseen and selector.needs else selector(problem, keep)
        reduction = selection.reduction
        plain = reduction.lift_columns(problem.weight)
        if (unseen and comp.needs) or not reduction.is_selection:
            return Narrowed(reduction, plain, rows, {})
        found = comp(problem, reduction)
        item = Narrowed(reduction, found.readout.weight, rows, found.diagnostics)
        return replace(item, weight=plain + trust_in(item) * (item.weight - plain)) if comp.needs else item

    def _apply_(self, group: ChannelGroup, experts: Sequence[Narrowed]) -> GroupPlan:
        reduction = side_by_side([item.reduction for item in experts])
        readout = Readout(torch.cat([item.weight for item in experts], 1))
        apply_(self.model, Plan([GroupPlan(group, reduction, readout)]))
        measured = bool(self.methods.compensator.needs)
        few = [str(expert) for expert, item in enumerate(experts) if measured and trust_in(item) < 1]
        return GroupPlan(group, reduction, None, diagnostics={**_together(experts), "few_rows": " ".join(few)})

    def _refit_(
        self, run: BlockRun, group: ChannelGroup, wanted: Wanted, unfolded: nn.Module, trust: Sequence[float]
    ) -> None:
        """Refit all experts as wholes; those that saw few rows go a part of the way."""
        bank = self.model.get_submodule(group.consumer.module)
        count = columns(bank)
        shape = replace(
            group,
            kind="experts",
            units=count,
            consumer=Port(group.consumer.module, "in"),
            attributes=(),
            fields=(),
            chosen=min(group.chosen, count),
        )
        before = to_matrix(bank).unflatten(1, (count, -1))
        ExpertFit(self.model, self.methods, self.seed).refit_(run, shape, wanted, unfolded)
        if min(trust) < 1:
            gain = to_matrix(bank).unflatten(1, (count, -1)) - before
            left = before + torch.tensor(trust, dtype=gain.dtype, device=gain.device)[:, None] * gain
            whole = Reduction.keep_all(count)
            apply_(self.model, Plan([GroupPlan(shape, whole, Readout(left.flatten(1)))]))


def side_by_side(parts: Sequence[Reduction]) -> Reduction:
    """One reduction of the units of all experts from one of each, expert after expert."""
    firsts = [sum(part.slots for part in parts[:place]) for place in range(len(parts))]
    moved = [
        torch.where(part.assignment < 0, -1, part.assignment + first) for part, first in zip(parts, firsts, strict=True)
    ]
    return Reduction(torch.cat(moved), torch.cat([part.weight for part in parts]), sum(part.slots for part in parts))


def trust_in(item: Narrowed) -> float:
    """Which part of the way from plain pruning to its fit an expert goes: all of it with :data:`ROWS` rows per channel
    or more, less with fewer."""
    return min(1.0, item.rows / (ROWS * len(item.reduction.assignment)))


def _together(experts: Sequence[Narrowed]) -> dict[str, Any]:
    """What the compensators told, errors as means over the experts that have them."""
    found: dict[str, Any] = {}
    for name in ERRORS:
        values = [value for item in experts if (value := item.told.get(name)) is not None]
        if values:
            found[name] = mean(values)
    chosen = {str(item.told["chosen"]) for item in experts if "chosen" in item.told}
    return found | ({"chosen": chosen.pop() if len(chosen) == 1 else "fit"} if chosen else {})
