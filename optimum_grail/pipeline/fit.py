"""Fit: compress block by block, every group on what the student compressed so far really feeds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from optimum_grail.calibration.batches import Batch
from optimum_grail.calibration.probe import Probe, Wanted
from optimum_grail.calibration.stream import Call, Captured, capture, check_chain
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.moments import Statistics
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.problem import GroupProblem, Selection
from optimum_grail.core.reduction import Reduction
from optimum_grail.models.layout import Layout, Stack
from optimum_grail.models.surgery import apply_
from optimum_grail.pipeline.blocks import Batches, Streams, Targets, advance, student_pass
from optimum_grail.pipeline.methods import Methods
from optimum_grail.pipeline.problems import collector_for, problem_of, to_patches
from optimum_grail.report.progress import Progress


@dataclass(frozen=True)
class FitRun:
    """Everything one fit reads.

    Args:
        model: the model, in eval mode; :meth:`run_` compresses it in place.
        layout: its stacks and groups.
        methods: the methods.
        widths: units to keep per group.
        batches: calibration batches; empty for data-free methods.
        seed: seed of random choices.
        progress: told once per group.
    """

    model: nn.Module
    layout: Layout
    methods: Methods
    widths: Mapping[str, int]
    batches: Sequence[Batch]
    seed: int
    progress: Progress

    def run_(self) -> Plan:
        """Compress the model and return the plan that was applied: every group that lost units or was refitted.

        Raises:
            ArchitectureError: the blocks of a stack are no uninterrupted chain.
            StatisticsError: activations of a group are not finite, or all its rows are padding.
        """
        plans: list[GroupPlan] = []
        captured = self._capture()
        for stack in self.layout.stacks:
            plans += self._stack_(stack, captured.get(stack.name))
        return Plan(plans)

    def _capture(self) -> dict[str, Captured]:
        if not self.methods.needs_data or not self.batches:
            return {}
        for stack in self.layout.stacks:
            check_chain(self.model, stack.blocks, self.batches[0])
        return capture(self.model, {stack.name: stack.blocks for stack in self.layout.stacks}, self.batches)

    def _groups(self, path: str) -> list[ChannelGroup]:
        return sorted((g for g in self.layout.groups if g.block == path), key=lambda group: group.stage)

    def _stack_(self, stack: Stack, captured: Captured | None) -> list[GroupPlan]:
        if captured is None:
            return [self._group_(group, None) for path in stack.blocks for group in self._touched(path, False)]
        batches = Batches.of(self.batches, stack.spec.mask)
        dense = list(captured.hidden) if self.methods.two_streams else None
        streams = Streams(captured.hidden, dense)
        plans: list[GroupPlan] = []
        drifted = False
        for path in stack.blocks:
            groups = self._touched(path, drifted)
            last = path == stack.blocks[-1]
            plans += self._block_(path, groups, captured.calls.pop(path), streams, batches, last)
            drifted = drifted or bool(groups)
        return plans

    def _touched(self, path: str, drifted: bool) -> list[ChannelGroup]:
        """The groups of a block about which anything is to be done: units go, or the consumer is refitted because what
        was compressed before it, in this block too, made the student drift."""
        refits = self.methods.compensator.refits_whole_groups and self.methods.two_streams
        joint = self.methods.within_block == "joint"
        touched: list[ChannelGroup] = []
        for group in self._groups(path):
            behind = drifted or (not joint and any(other.stage < group.stage for other in touched))
            if self.widths[group.name] < group.units or (refits and behind):
                touched.append(group)
        return touched

    def _block_(
        self,
        path: str,
        groups: list[ChannelGroup],
        calls: Sequence[Call],
        streams: Streams,
        batches: Batches,
        last: bool,
    ) -> list[GroupPlan]:
        block = self.model.get_submodule(path)
        if not groups:
            return self._pass_through(block, calls, streams, last)
        wanted = self.methods.wanted if streams.dense is not None else Wanted()
        targets = None if streams.dense is None else Targets(Probe(block, path, groups, wanted), calls, streams.dense)
        plans: list[GroupPlan] = []
        for stage in self._stages(groups):
            collectors = [collector_for(self.model, group, "held_out" in self.methods.needs) for group in stage]
            probe = Probe(block, path, stage, replace(wanted, features=True), stop_early=True)
            student_pass(probe, collectors, calls, streams, batches, targets)
            plans += [self._group_(collector.group, collector.statistics()) for collector in collectors]
        if not last:
            advance(block, calls, streams.student)
        return plans

    def _pass_through(self, block: nn.Module, calls: Sequence[Call], streams: Streams, last: bool) -> list[GroupPlan]:
        """Nothing to do in this block: only move the streams on, both at once while they are still equal."""
        if not last:
            together = streams.dense is not None and streams.dense[0] is streams.student[0]
            advance(block, calls, streams.student)
            if streams.dense is not None:
                if together:
                    streams.dense = list(streams.student)
                else:
                    advance(block, calls, streams.dense)
        return []

    def _stages(self, groups: Sequence[ChannelGroup]) -> list[list[ChannelGroup]]:
        if self.methods.within_block == "joint":
            return [list(groups)] if groups else []
        return [[g for g in groups if g.stage == stage] for stage in sorted({g.stage for g in groups})]

    def _group_(self, group: ChannelGroup, statistics: Statistics | None) -> GroupPlan:
        problem = problem_of(self.model, group, statistics, self.seed)
        selection = self._select(problem, self.widths[group.name])
        compensation = self.methods.compensator(problem, selection.reduction)
        plan = GroupPlan(
            group,
            selection.reduction,
            to_patches(compensation.readout, self.model, group),
            selection.order,
            selection.curve,
            compensation.diagnostics,
        )
        apply_(self.model, Plan([plan]))
        self.progress.update(1, group.name)
        return replace(plan, readout=None)  # the model holds it now; a second copy would double the memory

    def _select(self, problem: GroupProblem, keep: int) -> Selection:
        if keep == problem.units:
            return Selection(Reduction.keep_all(problem.units))
        return self.methods.selector(problem, keep)
