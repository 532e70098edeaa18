"""Whole experts of a mixture: chosen by what the router does, taken away, and those that stay refitted to the rest.

Where experts go, tokens are routed anew. What the experts that stay are refitted on is therefore measured after that:
their features are what enters ``down_proj`` times the gate, the target is the residual stream of the dense model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.problem import Selection
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.routing import Routing
from optimum_grail.errors import ConfigError
from optimum_grail.fit.ahead import narrow_ahead_
from optimum_grail.fit.methods import Methods
from optimum_grail.models.surgery import apply_
from optimum_grail.streams.blocks import BlockRun
from optimum_grail.streams.probe import Wanted
from optimum_grail.streams.problems import collector_for, problem_of
from optimum_grail.streams.routing import routing_of


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
        chooser = self.methods.expert_selector
        routing = routing_of(run, group) if chooser is not None and chooser.needs else None
        selection = self._select(group, keep, routing)
        if not self.methods.compensator.needs:
            return self._plainly_(group, selection, routing)
        unfolded = copy.deepcopy(run.block)
        problem = problem_of(self.model, group, None, self.seed)
        shape = narrow_ahead_(self.model, group, selection.reduction, problem)
        collector = collector_for(self.model, shape, "held-out" in self.methods.needs)
        run.measure([collector], replace(wanted, features=True), unfolded)
        statistics = collector.statistics(run.batches.crossed)
        problem = problem_of(self.model, shape, statistics, self.seed)
        whole = Reduction.keep_all(shape.units)
        compensation = self.methods.compensator(problem, whole)
        apply_(self.model, Plan([GroupPlan(shape, whole, compensation.readout)]))
        return self._plan(group, selection, {**compensation.diagnostics, **_told(routing, selection)})

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
        return self._plan(group, selection, {**compensation.diagnostics, **_told(routing, selection)})

    def _plan(self, group: ChannelGroup, selection: Selection, told: Mapping[str, Any]) -> GroupPlan:
        return GroupPlan(group, selection.reduction, None, selection.order, selection.curve, told)


def _told(routing: Routing | None, selection: Selection) -> dict[str, Any]:
    """What is worth telling of the experts that went: the share of all choices that had been theirs."""
    if routing is None:
        return {}
    gone = torch.ones(len(routing.tokens), dtype=torch.bool)
    gone[selection.reduction.kept] = False
    return {"rerouted": float(routing.tokens[gone].sum() / routing.tokens.sum().clamp(min=1))}
