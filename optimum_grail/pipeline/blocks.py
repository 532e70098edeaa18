"""The two streams through one block: passes over the calibration batches that fill the groups' collectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from optimum_grail.calibration.batches import Batch
from optimum_grail.calibration.collect import Collector
from optimum_grail.calibration.probe import Probe, Record
from optimum_grail.calibration.stream import Call


@dataclass
class Streams:
    """Hidden states entering the next block, one tensor per batch.

    Args:
        student: of the model compressed so far.
        dense: of the dense model, or ``None`` when no method asks for it.
    """

    student: list[Tensor]
    dense: list[Tensor] | None


@dataclass(frozen=True)
class Batches:
    """The calibration batches as the block passes need them.

    Args:
        batches: the batches.
        masks: ``[B, T]`` masks of real rows, ``None`` where every row is real.
    """

    batches: Sequence[Batch]
    masks: Sequence[Tensor | None]

    @classmethod
    def of(cls, batches: Sequence[Batch], mask_name: str | None) -> Batches:
        """Look the masks up; a mask of ones is dropped, so that nothing is copied for it."""
        masks: list[Tensor | None] = []
        for batch in batches:
            mask = batch.inputs.get(mask_name) if mask_name else None
            masks.append(None if mask is None or bool(mask.all()) else mask)
        return cls(batches, masks)


@dataclass
class Targets:
    """The dense block's side, batch by batch.

    A batch runs through the dense block when the first stage asks for it: nothing of the block has been compressed yet
    then, so the student's own module serves, and targets of that stage never pile up. The dense stream moves on with
    it.

    Args:
        probe: on the block; records the targets of all groups.
        calls: what the block is called with, per batch.
        hidden: the dense stream; replaced by the block's outputs.
        records: what later stages have still to take, per batch.
    """

    probe: Probe
    calls: Sequence[Call]
    hidden: list[Tensor]
    records: dict[int, dict[str, Record]] = field(default_factory=dict)

    def take(self, index: int, names: Sequence[str]) -> dict[str, Record]:
        """The records of the groups ``names`` on batch ``index``; each can be taken once."""
        if index not in self.records:
            output = self.probe.run(self.calls[index], self.hidden[index])
            self.records[index] = self.probe.records
            if output is not None:
                self.hidden[index] = output
        return {name: self.records[index].pop(name) for name in names}


@torch.no_grad()
def student_pass(
    probe: Probe,
    collectors: Sequence[Collector],
    calls: Sequence[Call],
    streams: Streams,
    batches: Batches,
    targets: Targets | None,
) -> None:
    """Run the student's block over its stream and add every batch to the collectors; the stream does not move.

    Args:
        probe: on the student's block; records the features, and the targets' counterparts if there are targets.
        collectors: of the groups of one stage.
        calls: what the block is called with, per batch.
        streams: the hidden states entering the block.
        batches: splits and masks.
        targets: the dense side, or ``None`` without a dense stream.
    """
    names = [collector.group.name for collector in collectors]
    for index, call in enumerate(calls):
        dense = targets.take(index, names) if targets is not None else {}
        probe.run(call, streams.student[index])
        for name, collector in zip(names, collectors, strict=True):
            mask, split = batches.masks[index], batches.batches[index].split
            collector.add(probe.records[name], dense.get(name), mask, split)


@torch.no_grad()
def advance(block: nn.Module, calls: Sequence[Call], hidden: list[Tensor]) -> None:
    """Replace every hidden state by the block's output."""
    for index, call in enumerate(calls):
        hidden[index] = call.run(block, hidden[index].clone())
