"""The two streams through one block: passes over the calibration batches that fill the groups' collectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from optimum_grail.calibration.batches import Batch
from optimum_grail.calibration.collect import Collector
from optimum_grail.calibration.probe import Probe, Record, Wanted
from optimum_grail.calibration.stream import Call
from optimum_grail.core.groups import ChannelGroup


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


@torch.no_grad()
def dense_pass(
    block: nn.Module, path: str, groups: Sequence[ChannelGroup], calls: Sequence[Call], streams: Streams, wanted: Wanted
) -> list[dict[str, Record]]:
    """Run the dense block over its stream, record every group's target as ``wanted``, and move the dense stream on.

    Returns one record per batch and group; targets that equal the block's output are not stored twice.
    """
    probe = Probe(block, path, groups, wanted)
    records = []
    dense = streams.dense or []
    for index, call in enumerate(calls):
        output = probe.run(call, dense[index])
        if output is not None:
            dense[index] = output
        records.append(probe.records)
    return records


@torch.no_grad()
def student_pass(
    block: nn.Module,
    path: str,
    collectors: Sequence[Collector],
    calls: Sequence[Call],
    streams: Streams,
    batches: Batches,
    dense: list[dict[str, Record]] | None,
    wanted: Wanted,
) -> None:
    """Run the student's block over its stream and add every batch to the collectors; the stream does not move.

    ``dense`` holds the records of :func:`dense_pass` for the same ``wanted``, or is ``None`` without a dense stream.
    """
    groups = [collector.group for collector in collectors]
    target = wanted if dense is not None else Wanted()
    probe = Probe(block, path, groups, replace(target, features=True), stop_early=True)
    for index, call in enumerate(calls):
        probe.run(call, streams.student[index])
        for collector in collectors:
            other = dense[index].pop(collector.group.name) if dense is not None else None
            record = probe.records[collector.group.name]
            collector.add(record, other, batches.masks[index], batches.batches[index].split)


@torch.no_grad()
def advance(block: nn.Module, calls: Sequence[Call], hidden: list[Tensor]) -> None:
    """Replace every hidden state by the block's output."""
    for index, call in enumerate(calls):
        hidden[index] = call.run(block, hidden[index].clone())
