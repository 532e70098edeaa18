"""Whole experts of a mixture: chosen by what the router does, taken away, and those that stay refitted to the rest.

Where experts go, tokens are routed anew. What the experts that stay are refitted on is therefore measured after that:
their features are what enters ``down_proj`` times the gate, the target is the residual stream of the dense model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.problem import Selection
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.routing import Routing
from optimum_grail.errors import ConfigError
from optimum_grail.fit.ahead import narrow_ahead_
from optimum_grail.fit.methods import Methods
from optimum_grail.models.banks import width_of
from optimum_grail.models.matrix import columns, rows
from optimum_grail.models.surgery import apply_
from optimum_grail.streams.blocks import BlockRun
from optimum_grail.streams.expert_collect import ExpertCollector
from optimum_grail.streams.probe import Wanted
from optimum_grail.streams.problems import collector_for, problem_of
from optimum_grail.streams.routing import routing_of

TOGETHER = 8192
"""Most features that all experts of a layer are refitted together with."""
SWEEPS = 3
"""How often each expert is refitted where they are refitted one by one."""
SHARE_BYTES = 2 << 30
"""How much the sums of experts that are measured in one pass may take."""
ROWS = 4
"""Rows per feature below which an expert is named as one that saw few."""


@dataclass(frozen=True)
class ExpertFit:
    """Compresses the experts of one block after another.

    Args:
        model: the student.
        methods: the methods; those that choose experts and refit consumers are used.
        seed: seed of random choices.
    """

    model: nn.Module
    methods: Methods
    seed: int

    def data_free_(self, group: ChannelGroup, keep: int) -> GroupPlan:
        """Take experts away without looking at data."""
        return self._plainly_(group, self._select(group, keep, None), None)

    def compress_(self, run: BlockRun, group: ChannelGroup, keep: int, wanted: Wanted) -> GroupPlan:
        """Take all but ``keep`` experts of ``group`` away and refit the others.

        Args:
            run: the block that holds the group; its streams do not move.
            group: the experts, all of them.
            keep: how many stay.
            wanted: what is compared between the two streams.
        """
        chooser, comp = self.methods.expert_selector, self.methods.compensator
        if comp.needs and not self.methods.two_streams and not together(self.model, group):
            raise ConfigError(
                f"The experts of {group.name!r} are too many to be refitted at once, and the compensator does not look "
                "at the dense model, without which they cannot be refitted one by one. Take --target residual."
            )
        routing = routing_of(run, group) if chooser is not None and chooser.needs else None
        selection = self._select(group, keep, routing)
        if not comp.needs:
            return self._plainly_(group, selection, routing)
        unfolded = copy.deepcopy(run.block)
        problem = problem_of(self.model, group, None, self.seed)
        shape = narrow_ahead_(self.model, group, selection.reduction, problem)
        told = self.refit_(run, shape, wanted, unfolded)
        return self._plan(group, selection, {**_told(routing, selection, problem.span), **told})

    def refit_(self, run: BlockRun, shape: ChannelGroup, wanted: Wanted, unfolded: nn.Module) -> Mapping[str, Any]:
        """Refit the experts that are left, together or one by one, and return what is worth telling.

        Args:
            run: the block that holds them, narrowed already.
            shape: the experts as they are now.
            wanted: what is compared between the two streams.
            unfolded: a copy of the block from before it was narrowed.
        """
        refit_ = self._together_ if together(self.model, shape) else self._one_by_one_
        return refit_(run, shape, replace(wanted, features=True), unfolded)

    def _together_(self, run: BlockRun, shape: ChannelGroup, wanted: Wanted, unfolded: nn.Module) -> Mapping[str, Any]:
        """Refit all experts at once, as one consumer of all their features."""
        collector = collector_for(self.model, shape, "held-out" in self.methods.needs, run.batches.ranks)
        run.measure([collector], wanted, unfolded)
        problem = problem_of(self.model, shape, collector.statistics(run.batches.crossed), self.seed)
        whole = Reduction.keep_all(shape.units)
        compensation = self.methods.compensator(problem, whole)
        apply_(self.model, Plan([GroupPlan(shape, whole, compensation.readout)]))
        return compensation.diagnostics

    def _one_by_one_(
        self, run: BlockRun, shape: ChannelGroup, wanted: Wanted, unfolded: nn.Module
    ) -> Mapping[str, Any]:
        """Refit the experts in sweeps, each on the rows sent to it and on what the others leave over.

        A token goes through several experts, and each would make up for all that is missing there: they go a part of
        the way in every sweep. Nothing is larger than the Grams of a few experts.
        """
        run.streams.part()
        if run.targets is not None:
            run.targets.probe.block = unfolded  # the dense side, if no stage before has asked for it
        run.recall([shape.name])
        share, found = experts_at_once(self.model, shape), list[Mapping[str, Any]]()
        whole = collector_for(self.model, shape, "held-out" in self.methods.needs, run.batches.ranks)
        for sweep in range(SWEEPS):
            found = []
            for start in range(0, shape.units, share):
                some = range(start, min(start + share, shape.units))
                collector = ExpertCollector.of(shape, whole, some)
                if sweep == start == 0:
                    run.measure([collector], wanted)
                else:
                    run.remeasure(collector, wanted)
                found += self._sweep_(collector, shape, run.batches.crossed)
        run.recall([])
        few = [str(item["expert"]) for item in found if item["rows"] < ROWS * item["features"]]
        return {"chosen": "one by one", "few_rows": " ".join(few)}

    def _sweep_(self, collector: ExpertCollector, shape: ChannelGroup, crossed: bool) -> Iterator[Mapping[str, Any]]:
        """Move some experts towards what their rows ask for."""
        whole = problem_of(self.model, shape, None, self.seed)
        weight, width = whole.weight, whole.span
        for expert in list(collector.parts):
            rows = collector.rows(expert)
            yield {"expert": expert, "rows": rows, "features": width}
            if not rows:
                continue
            own = weight[:, expert * width : (expert + 1) * width]
            statistics = collector.statistics(expert, crossed)
            problem = replace(
                whole,
                name=f"{shape.name}.{expert}",
                units=width,
                weight=own.clone(),
                producers=(),
                statistics=statistics,
            )
            readout = self.methods.compensator(problem, Reduction.keep_all(width)).readout
            own += (readout.weight - own) / min(shape.chosen, shape.units)
        apply_(self.model, Plan([GroupPlan(shape, Reduction.keep_all(shape.units), Readout(weight))]))

    def _select(self, group: ChannelGroup, keep: int, routing: Routing | None) -> Selection:
        chooser = self.methods.expert_selector
        if chooser is None:
            raise ConfigError(f"Experts of {group.name!r} shall go, and nothing chooses them. Name an expert_selector.")
        problem = replace(problem_of(self.model, group, None, self.seed), routing=routing)
        selection = chooser(problem, keep)
        if not selection.reduction.is_selection:
            raise ConfigError("The selector merges units, which experts cannot be. Name another expert_selector.")
        return selection

    def _plainly_(self, group: ChannelGroup, selection: Selection, routing: Routing | None) -> GroupPlan:
        problem = problem_of(self.model, group, None, self.seed)
        compensation = self.methods.compensator(problem, selection.reduction)
        apply_(self.model, Plan([GroupPlan(group, selection.reduction, compensation.readout)]))
        return self._plan(group, selection, {**compensation.diagnostics, **_told(routing, selection, problem.span)})

    def _plan(self, group: ChannelGroup, selection: Selection, told: Mapping[str, Any]) -> GroupPlan:
        return GroupPlan(group, selection.reduction, None, selection.order, selection.curve, told)


def together(model: nn.Module, group: ChannelGroup) -> bool:
    """Whether the experts of a layer are few and narrow enough to be refitted all at once."""
    bank = model.get_submodule(group.consumer.module)
    return columns(bank) * width_of(bank) <= TOGETHER


def experts_at_once(model: nn.Module, group: ChannelGroup) -> int:
    """How many experts' sums fit into :data:`SHARE_BYTES`, at least one."""
    bank = model.get_submodule(group.consumer.module)
    width = width_of(bank)
    return min(columns(bank), max(1, SHARE_BYTES // (2 * 8 * width * (width + 2 * rows(bank)))))


def _told(routing: Routing | None, selection: Selection, width: int) -> dict[str, Any]:
    """What is worth telling: the share of all choices that had been of experts that went, and which of those that stay
    had few rows even before others' were added."""
    if routing is None:
        return {}
    kept = selection.reduction.kept
    gone = torch.ones(len(routing.tokens), dtype=torch.bool)
    gone[kept] = False
    few = [str(place) for place, tokens in enumerate(routing.tokens[kept].tolist()) if tokens < ROWS * width]
    rerouted = float(routing.tokens[gone].sum() / routing.tokens.sum().clamp(min=1))
    return {"rerouted": rerouted, "few_rows": " ".join(few)}


def experts_with_few_rows(plan: Plan) -> list[str]:
    """A line for users that names experts that were refitted on few rows; none if there are none."""
    named = [f"{name} ({few})" for name, item in plan.items() if (few := item.diagnostics.get("few_rows"))]
    if not named:
        return []
    return [
        f"Few calibration tokens were sent to experts of {', '.join(named)}, fewer than {ROWS} per channel: what is "
        "fitted there stays close to what it was. Take more samples (--num-samples)."
    ]
