"""The two streams through one block: passes over the calibration batches that fill the groups' collectors."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import AT_OUTPUT, ChannelGroup
from optimum_grail.core.reduction import Reduction
from optimum_grail.data.batches import Batch, subset_of
from optimum_grail.data.portion import Portion
from optimum_grail.processes.ranks import Ranks
from optimum_grail.streams.calls import Call
from optimum_grail.streams.collect import Gathering
from optimum_grail.streams.probe import Probe, Record, Wanted
from optimum_grail.streams.shortcut import Shortcuts
from optimum_grail.streams.states import States, is_same


@dataclass(frozen=True)
class Calls:
    """What a block is called with, per batch.

    Args:
        student: in the model as compressed so far.
        dense: in the model that targets come from; the very same unless an earlier stack changed them.
        beyond: blocks right after it that the student lacks, with their calls in that model.
    """

    student: Sequence[Call]
    dense: Sequence[Call]
    beyond: Sequence[tuple[nn.Module, Sequence[Call]]] = ()


@dataclass
class Streams:
    """Hidden states entering the next block, one tensor per batch.

    Args:
        student: of the model compressed so far.
        dense: of the dense model, or ``None`` when no method asks for it.
        parted: whether something has been compressed, for a process that has no states to tell it by.
    """

    student: States
    dense: States | None
    parted: bool = False

    @property
    def equal(self) -> bool:
        """Whether both are still one, because nothing has been compressed yet."""
        if self.dense is None or not len(self.student):
            return self.dense is not None and not self.parted
        return is_same(self.dense, self.student, 0)

    @property
    def nbytes(self) -> int:
        """Bytes of both, if all batches were as large as the first."""
        sides = [side for side in (self.student, self.dense) if side is not None and len(side)]
        return sum(len(side) * int(side[0].nbytes) for side in sides)

    def part(self) -> None:
        """From now on they are two, whatever their values: something has been compressed."""
        if self.equal and len(self.student):
            self.student[0] = self.student[0].clone()
        self.parted = True


@dataclass(frozen=True)
class Batches:
    """The calibration batches as the block passes need them.

    Args:
        batches: those of this process.
        masks: ``[B, T]`` masks of real rows, ``None`` where every row is real.
        crossed: whether the subsets of the statistics are sources, each judged by what is fitted on the others.
    """

    batches: Portion
    masks: Sequence[Tensor | None]
    crossed: bool = False

    @property
    def ranks(self) -> Ranks:
        """The processes that share the batches."""
        return self.batches.ranks

    def subset(self, index: int) -> int | None:
        """Which subset of the statistics the rows of a batch belong to, see :func:`subset_of`."""
        return subset_of(self.batches[index], self.crossed)

    @classmethod
    def of(cls, batches: Sequence[Batch], mask_name: str | None, sources: bool = False) -> Batches:
        """Look the masks up; a mask of ones is dropped, so that nothing is copied for it.

        Args:
            batches: calibration batches.
            mask_name: the input that tells real tokens.
            sources: keep the rows of different sources apart, where there are several.
        """
        portion, masks = Portion.of(batches), list[Tensor | None]()
        for batch in portion:
            mask = batch.inputs.get(mask_name) if mask_name else None
            masks.append(None if mask is None or bool(mask.all()) else mask)
        return cls(portion, masks, sources and len({batch.source for batch in portion.whole}) > 1)


@dataclass
class Targets:
    """The dense block's side, batch by batch.

    A batch runs through the dense block when the first stage asks for it: nothing of the block has been compressed yet
    then, so the student's own module serves, and targets of that stage never pile up. The dense stream moves on with
    it.

    Args:
        probe: on the block; records the targets of all groups.
        calls: what the block is called with, per batch.
        hidden: the dense stream; replaced by what leaves the block, or the last of ``beyond``.
        beyond: blocks right after this one that the student lacks, with their calls: whatever reaches the block's
            output is compared with the dense stream after them, so that it makes up for them too.
        records: what later stages have still to take, per batch.
        recalled: names of groups whose records are kept after they were taken, and those records, per batch.
    """

    probe: Probe
    calls: Sequence[Call]
    hidden: States
    beyond: Sequence[tuple[nn.Module, Sequence[Call]]] = ()
    records: dict[int, dict[str, Record]] = field(default_factory=dict)
    recalled: dict[str, dict[int, Record]] = field(default_factory=dict)

    def take(self, index: int, names: Sequence[str]) -> dict[str, Record]:
        """The records of the groups ``names`` on batch ``index``; each can be taken once, and recalled afterwards if
        :attr:`recalled` names the group."""
        if index not in self.records:
            output = self.probe.run(self.calls[index], self.hidden[index])
            self.records[index] = self.probe.records
            for name in self.records[index].keys() - set(names):
                self.records[index][name].features = self.records[index][name].routed = (
                    None  # a later stage has its own, after what is compressed here
                )
            for name in self._at_output:
                self.records[index][name].stream = None  # the stream holds it
            if output is not None:
                self.hidden[index] = self._leave(index, output)
        found = {name: self.records[index].pop(name) for name in names}
        for name in self._at_output & found.keys():
            found[name].stream = self.hidden[index]
        for name in self.recalled.keys() & found.keys():
            self.recalled[name][index] = replace(found[name], features=None, routed=None)
        return found

    @cached_property
    def _at_output(self) -> set[str]:
        """Groups whose streams leave the block, if those are wanted."""
        return {group.name for group in self.probe.groups if self.probe.wanted.stream and group.stream == AT_OUTPUT}

    def _leave(self, index: int, output: Tensor) -> Tensor:
        for block, calls in self.beyond:
            output = calls[index].run(block, output.clone())
        return output


@dataclass(frozen=True)
class BlockRun:
    """One block of the student with all that runs through it.

    Args:
        block: the student's block.
        path: its path in the model.
        calls: what it is called with, per batch.
        streams: the hidden states entering it; they do not move here.
        batches: splits and masks.
        targets: the dense side, or ``None`` without a dense stream.
        shortcuts: past what is known of the block; none by default.
    """

    block: nn.Module
    path: str
    calls: Sequence[Call]
    streams: Streams
    batches: Batches
    targets: Targets | None
    shortcuts: Shortcuts | None = None

    @torch.no_grad()
    def measure(self, collectors: Sequence[Gathering], wanted: Wanted, unfolded: nn.Module | None = None) -> None:
        """Run the block over the student's stream and add every batch to the collectors of one stage.

        Args:
            collectors: of the groups of the stage.
            wanted: what to record of each group: its features, and the counterparts of the targets.
            unfolded: a copy of the block from before producers of the stage were folded, or ``None``.
        """
        names = [collector.group.name for collector in collectors]
        groups = [collector.group for collector in collectors]
        before = None if unfolded is None else Probe(unfolded, self.path, groups, Wanted(output=True), True)
        wanted = wanted if before is None else replace(wanted, output=True)
        if self.targets is not None and unfolded is not None:
            self.targets.probe.block = unfolded  # the dense side of a first stage has to be measured unfolded too
        probe = Probe(self.block, self.path, groups, wanted, stop_early=True)
        lasting = self._lasting(groups)
        for index, call in enumerate(self.calls):
            equal = self.targets is not None and is_same(self.targets.hidden, self.streams.student, index)
            equal = equal and before is None and self.targets is not None and not self.targets.beyond
            dense = self.targets.take(index, names) if self.targets is not None else {}
            if equal:  # nothing has been compressed yet: the dense run shows the student's features, and no drift
                records, dense = dense, {}
            else:
                hidden = self.streams.student[index]
                with self.taken(index):
                    probe.run(call, hidden)
                records = probe.records
                if before is not None:
                    before.run(call, hidden)
            for name, collector in zip(names, collectors, strict=True):
                mask, subset = self.batches.masks[index], self.batches.subset(index)
                folded = None if before is None else before.records[name]
                collector.add(records[name], dense.get(name), mask, subset, folded)
            for group in lasting:
                features = records[group.name].features
                if self.shortcuts is not None and features is not None:
                    self.shortcuts.keep(group, features)

    def _lasting(self, groups: Sequence[ChannelGroup]) -> list[ChannelGroup]:
        """Those of the groups whose features will be good for later runs: not where producers may change still."""
        if self.shortcuts is None or not self.calls:
            return []
        again = {} if self.targets is None else self.targets.recalled
        groups = [group for group in groups if group.name not in again]
        return self.shortcuts.worthwhile(groups, self.calls[0], self.streams.student[0])

    def settle(self, group: ChannelGroup, reduction: Reduction | None) -> None:
        """From now on runs may pass by what leads to the group's consumer, see :meth:`Shortcuts.settle`."""
        if self.shortcuts is not None:
            self.shortcuts.settle(group, reduction)

    def taken(self, index: int) -> AbstractContextManager[None]:
        """Inside, runs on a batch pass by what is known of the block."""
        return nullcontext() if self.shortcuts is None else self.shortcuts.taken(index)

    def recall(self, names: Sequence[str]) -> None:
        """From now on keep what the dense side shows of these groups, and of no others."""
        if self.targets is not None:
            self.targets.recalled = {name: {} for name in names}

    def recalled(self, index: int, name: str) -> Record:
        """What the dense side showed of a group on a batch, if that was to be kept."""
        return Record() if self.targets is None else self.targets.recalled[name][index]

    @torch.no_grad()
    def remeasure(self, collector: Gathering, wanted: Wanted) -> None:
        """Run the block over the student's stream once more for one group whose records are kept."""
        group = collector.group
        probe = Probe(self.block, self.path, [group], replace(wanted, features=True), stop_early=True)
        for index, call in enumerate(self.calls):
            with self.taken(index):
                probe.run(call, self.streams.student[index])
            mask, subset = self.batches.masks[index], self.batches.subset(index)
            collector.add(probe.records[group.name], self.recalled(index, group.name), mask, subset)

    @torch.no_grad()
    def advance(self) -> None:
        """Move the student's stream to the end of the block."""
        for index, call in enumerate(self.calls):
            with self.taken(index):
                self.streams.student[index] = call.run(self.block, self.streams.student[index].clone())


@torch.no_grad()
def advance(block: nn.Module, calls: Sequence[Call], hidden: States) -> None:
    """Replace every hidden state by the block's output."""
    for index, call in enumerate(calls):
        hidden[index] = call.run(block, hidden[index].clone())


def pass_through(block: nn.Module, calls: Calls, streams: Streams, last: bool) -> None:
    """Move the streams past a block in which nothing is to be done, both at once while they are still equal; not at all
    past the ``last``."""
    if last:
        return
    equal = streams.equal
    advance(block, calls.student, streams.student)
    if streams.dense is None:
        return
    if equal:
        streams.dense = streams.student.copy()
    else:
        advance(block, calls.dense, streams.dense)
    for other, other_calls in calls.beyond:
        advance(other, other_calls, streams.dense)
