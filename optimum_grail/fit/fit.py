"""Fit: compress block by block, every group on what the student compressed so far really feeds it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from optimum_grail.core.groups import AT_OUTPUT, IN_BANKS, ChannelGroup
from optimum_grail.core.moments import Statistics
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.problem import GroupProblem, Selection
from optimum_grail.core.reduction import Reduction
from optimum_grail.data.batches import Batch
from optimum_grail.data.portion import Portion
from optimum_grail.fit.agreement import agreed
from optimum_grail.fit.ahead import features_alone, narrow_ahead_, select, shrink_ahead_, shrinks
from optimum_grail.fit.classifier import classifiers_of, refit_classifiers_
from optimum_grail.fit.expert_channels import ChannelFit
from optimum_grail.fit.experts import ExpertFit
from optimum_grail.fit.methods import Methods
from optimum_grail.fit.record import Record, Unrecorded
from optimum_grail.fit.refitting import refit_, refittable
from optimum_grail.fit.regional import Regional
from optimum_grail.models.depth import kept_runs
from optimum_grail.models.layout import Layout, Stack
from optimum_grail.models.surgery import apply_
from optimum_grail.report.progress import Progress
from optimum_grail.streams.blocks import Batches, BlockRun, Calls, Streams, Targets, advance, pass_through
from optimum_grail.streams.capture import Captured, Order, capture, order_of
from optimum_grail.streams.gradients import block_gradients
from optimum_grail.streams.masking import capture_fed
from optimum_grail.streams.memory import release, released_at_once
from optimum_grail.streams.probe import Probe, Wanted
from optimum_grail.streams.problems import collector_for, problem_of, to_patches
from optimum_grail.streams.shortcut import Shortcut, Shortcuts


@dataclass(frozen=True)
class FitRun:
    """Everything one fit reads.

    Args:
        model: the model, in eval mode; :meth:`run_` compresses it in place.
        layout: its stacks and groups.
        methods, widths: the methods, and units to keep per group.
        batches: calibration batches, a portion where processes share them; empty for data-free methods.
        seed: seed of random choices.
        progress: told once per group.
        dropped: paths of blocks that go altogether: the student's stream passes them by. They are still in the model
            afterwards.
        mask_gradients: per group, what :func:`optimum_grail.streams.gradients.mask_gradients` returned.
        offload: keep both streams in files of a temporary folder instead of in memory.
        around: called with a block's path; what it returns is entered around all that is done there.
        record: told of every block that is done; those that it knows already are restored instead.
        pairs: rotation pairs that stay in the heads, by the owner of their config; others' heads keep all.
    """

    model: nn.Module
    layout: Layout
    methods: Methods
    widths: Mapping[str, int]
    batches: Sequence[Batch]
    seed: int
    progress: Progress
    dropped: Sequence[str] = ()
    mask_gradients: Mapping[str, Tensor] = field(default_factory=dict)
    offload: bool = False
    around: Callable[[str], AbstractContextManager[Any]] = nullcontext
    record: Record = field(default_factory=Unrecorded)
    pairs: Mapping[str, Tensor] = field(default_factory=dict)
    _shortcuts: dict[type[nn.Module], dict[str, Shortcut | None]] = field(default_factory=dict)  # of classes of blocks

    def run_(self) -> Plan:
        """Compress the model and return the plan that was applied: every group that lost units or was refitted.

        Raises:
            ArchitectureError: the blocks of a stack cannot be calibrated one by one.
            StatisticsError: activations of a group are not finite, or all its rows are padding.
        """
        with released_at_once(self.offload):
            return Plan(self._plans_())

    def _plans_(self) -> list[GroupPlan]:
        plans, left = list[GroupPlan](), dict[str, Streams]()
        for group in (group for path in self.dropped for group in self.layout.of_block(path)):
            self.progress.update(1, group.name)
        for stack, student, dense in self._walk(left):
            plans += self._stack_(stack, student, dense, left)
        if self._classifiers and any(not streams.equal for streams in left.values()):
            plans += refit_classifiers_(self.model, self.layout, self.methods, self._rows, left, self.seed)
        return plans

    def _walk(self, left: Mapping[str, Streams]) -> Iterator[tuple[Stack, Captured | None, Captured | None]]:
        """The stacks with what they see in the student and what in the dense model.

        A stack that others feed comes when they have been compressed. If it continues a stack of the same sub-model
        (stages with downsampling in between), its dense side is the dense model's, and what still drifts is made up
        for. Else it is fed by another model, and its own target is what the dense stack makes of what reaches it: to
        take the errors of an image back in a language model would cost the words that have none.
        """
        if not self.methods.fit_needs or not self._rows:
            yield from ((stack, None, None) for stack in self.layout.stacks)
            return
        stacks = {stack.name: stack for stack in self.layout.stacks}
        order = order_of(self.model, self.layout.blocks, self._rows.sample)
        owners = [stacks[name].owner for name in (*order.free, *order.fed)]
        fed = enumerate(order.fed, start=len(order.free))
        continuing = tuple(name for index, name in fed if stacks[name].owner in owners[:index])
        blocks = {name: stacks[name].blocks for name in (*order.free, *continuing)}
        known = Order(order.free, continuing)
        found = capture(self.model, blocks, self._rows, offload=self.offload, order=known)
        for name in (*order.free, *order.fed):
            student = dense = found.pop(name, None)
            if name in order.fed and (dense is None or any(not streams.equal for streams in left.values())):
                student = capture_fed(self.model, self.layout, stacks[name], self.dropped, self._rows, self.offload)
            yield stacks[name], student, dense or student

    @cached_property
    def _rows(self) -> Portion:
        return Portion.of(self.batches)

    @cached_property
    def _classifiers(self) -> list[ChannelGroup]:
        """The layers to refit last; where there are some, the streams are needed after the last blocks too."""
        return classifiers_of(self.model, self.layout) if self.methods.refits and self._rows else []

    def _stack_(
        self, stack: Stack, student: Captured | None, dense: Captured | None, left: dict[str, Streams]
    ) -> list[GroupPlan]:
        """Compress one stack; ``left`` is told the streams that leave it."""
        kept = [path for path in stack.blocks if path not in self.dropped]
        if student is None or dense is None:
            return [plan for path in kept for plan in self._data_free_(stack, path)]
        batches = Batches.of(self._rows, stack.mask, "sources" in self.methods.needs)
        drifted, other = student is not dense, dense.hidden.copy() if self.methods.two_streams else None
        streams = left[stack.name] = Streams(student.hidden, other, drifted)
        plans, done = list[GroupPlan](), self.record.done_(stack, streams)
        for path, beyond in kept_runs(stack.blocks, self.dropped):
            skipped = [(self.model.get_submodule(item), dense.calls[item]) for item in beyond]
            if path is None:  # the stack begins with dropped blocks
                for block, block_calls in skipped if streams.dense is not None and not done else ():
                    advance(block, block_calls, streams.dense or [])
            else:
                groups = self._touched(path, drifted, bool(beyond))
                last = path == kept[-1] and not self._classifiers
                calls = Calls(student.calls[path], dense.calls[path], skipped)
                with self.around(path):
                    if path in done:
                        plans += self._restored_(path, groups)
                    else:
                        made = self._block_(path, groups, calls, streams, batches, last)
                        found = agreed(batches.ranks, self.model, path, made)
                        self.record.keep(self.model, stack, path, found, streams, last)
                        plans += found
                drifted = drifted or bool(groups)
            streams.parted = drifted = drifted or bool(beyond)
        return plans

    def _touched(self, path: str, drifted: bool, cut: bool = False) -> list[ChannelGroup]:
        """The groups of a block about which anything is to be done: units go, or the consumer makes up for what went
        before it, in this block too, or for the next block, dropped (``cut``). The others count as done."""
        joint, touched = self.methods.within_block == "joint", list[ChannelGroup]()
        for group in self.layout.of_block(path):
            behind = drifted or (not joint and any(other.stage < group.stage for other in touched))
            behind = behind or (cut and group.stream == AT_OUTPUT)
            goes = self.widths[group.name] < group.units or shrinks(group, self.pairs)
            behind = behind and group.kind not in IN_BANKS  # refitted only where some went
            if group.units and (goes or (self.methods.refits and behind)):  # 0: an earlier run left nothing of it
                touched.append(group)
            else:
                self.progress.update(1, group.name)
        return touched

    def _block_(
        self,
        path: str,
        groups: list[ChannelGroup],
        calls: Calls,
        streams: Streams,
        batches: Batches,
        last: bool,
    ) -> list[GroupPlan]:
        block = self.model.get_submodule(path)
        if not groups:
            pass_through(block, calls, streams, last)
            return []
        wanted = self.methods.wanted if streams.dense is not None else Wanted()
        targets = None
        if streams.dense is not None:
            together = replace(wanted, features=streams.equal)
            targets = Targets(Probe(block, path, groups, together), calls.dense, streams.dense, calls.beyond)
        shortcuts = Shortcuts(block, path, self.offload, self._shortcuts.setdefault(type(block), {}))
        run = BlockRun(block, path, calls.student, streams, batches, targets, shortcuts)
        regional = Regional.before(run, self.methods.selector.tuning_rounds)
        plans = [plan for stage in self.methods.stages(groups) for plan in self._stage_(run, stage, wanted)]
        regional.optimise_([group.consumer.module for group in groups])
        if not last:
            run.advance()
            release()
        return plans

    def _data_free_(self, stack: Stack, path: str) -> list[GroupPlan]:
        groups = self._touched(path, False)
        with self.around(path):
            if path in self.record.done_(stack, None):
                return self._restored_(path, groups)
            made = [
                self._experts_(group, None) if group.kind in IN_BANKS else self._group_(group, group, None)
                for group in groups
            ]
            plans = agreed(self._rows.ranks, self.model, path, made)
            self.record.keep(self.model, stack, path, plans, None, False)
            return plans

    def _restored_(self, path: str, groups: list[ChannelGroup]) -> list[GroupPlan]:
        plans = self.record.restore_(self.model, path, groups) if groups else []
        for group in groups:
            self.progress.update(1, group.name)
        return plans

    def _stage_(self, run: BlockRun, stage: Sequence[ChannelGroup], wanted: Wanted) -> list[GroupPlan]:
        """Measure the groups of one stage, compress and refit them.

        Folded features are no function of the unfolded ones, nor are those that a norm over all units has mixed. These
        groups are narrowed before anything is measured.
        """
        if stage[0].kind in IN_BANKS:
            return [self._experts_(group, (run, wanted)) for group in stage]
        wants, apart = "block-gradients" in self.methods.needs, "held-out" in self.methods.needs
        ranks = run.batches.ranks
        gradients: Mapping[str, Tensor] = block_gradients(run, stage, self.model) if wants else {}
        stage, inside, whole = shrink_ahead_(run, self.model, stage, self.widths, self.pairs, self.methods)
        blind = not self.methods.selector.needs
        early = [group for group in stage if blind or self._mixes(group)]
        found = {} if blind else features_alone(run, self.model, early, apart)
        problems = [self._problem(group, found.get(group.name), gradients.get(group.name)) for group in early]
        ahead = {group.name: self._select(problem, group) for group, problem in zip(early, problems, strict=True)}
        folded = [g for g in stage if g.name in ahead and (self._mixes(g) or not ahead[g.name].reduction.is_selection)]
        unfolded = copy.deepcopy(run.block) if folded and whole is None else whole
        shapes = [
            narrow_ahead_(self.model, g, ahead[g.name].reduction, self._problem(g, None)) if g in folded else g
            for g in stage
        ]
        collectors = [collector_for(self.model, shape, apart, ranks) for shape in shapes]
        run.recall(again := refittable(self.methods, stage, self.widths))
        run.measure(collectors, replace(wanted, features=True), unfolded)
        release()
        plans = []
        for group, shape, collector in zip(stage, shapes, collectors, strict=True):
            statistics = collector.statistics(run.batches.crossed)
            plan = self._group_(group, shape, statistics, ahead.get(group.name), gradients.get(group.name))
            plans.append(replace(plan, inside=inside.get(group.name)))
            if group.name not in again:
                run.settle(shape, plans[-1].reduction if shape is group else None)
        return refit_(self.model, run, plans, again, self.methods, self.seed)

    def _experts_(self, group: ChannelGroup, at: tuple[BlockRun, Wanted] | None) -> GroupPlan:
        fitting = ExpertFit if group.kind == "experts" else ChannelFit
        fit, keep = fitting(self.model, self.methods, self.seed), self.widths[group.name]
        plan = fit.data_free_(group, keep) if at is None else fit.compress_(at[0], group, keep, at[1])
        self.progress.update(1, group.name)
        return plan

    def _mixes(self, group: ChannelGroup) -> bool:
        return self.layout.specs[group.name].mixes and 0 < self.widths[group.name] < group.units

    def _group_(
        self,
        group: ChannelGroup,
        shape: ChannelGroup,
        statistics: Statistics | None,
        selection: Selection | None = None,
        gradients: Tensor | None = None,
    ) -> GroupPlan:
        """Compress one group; ``shape`` is the group as it is now: ``group`` itself, or what a folding left of it."""
        problem = self._problem(shape, statistics, gradients)
        selection = selection or self._select(problem, group)
        reduction = selection.reduction if shape is group else Reduction.keep_all(shape.units)
        compensation = self.methods.compensator(problem, reduction)
        readout = to_patches(compensation.readout, self.model, shape)
        apply_(self.model, Plan([GroupPlan(shape, reduction, readout)]))
        release()
        self.progress.update(1, group.name)
        # Without the readout: the model holds it now, and a second copy would double the memory.
        return GroupPlan(group, selection.reduction, None, selection.order, selection.curve, compensation.diagnostics)

    def _problem(
        self, group: ChannelGroup, statistics: Statistics | None, gradients: Tensor | None = None
    ) -> GroupProblem:
        problem = problem_of(self.model, group, statistics, self.seed)
        return replace(problem, mask_gradients=self.mask_gradients.get(group.name), block_gradients=gradients)

    def _select(self, problem: GroupProblem, group: ChannelGroup) -> Selection:
        return select(self.methods, problem, self.widths[group.name])
