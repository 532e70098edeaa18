"""The calibration batches of one process, of those that all processes share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import torch
from torch import Tensor

from optimum_grail.data.batches import Batch
from optimum_grail.processes.ranks import ALONE, Ranks


@dataclass(frozen=True, eq=False)
class Portion(Sequence[Batch]):
    """A sequence of this process's batches that knows all of them.

    Whole batches are dealt out, so that every batch is computed as one process alone would compute it. What is decided
    has to rest on sums over all processes (``ranks``), on ``whole``, or on ``sample``, never on the own batches alone.

    Args:
        whole: the batches of all processes, in one order.
        ranks: the processes.
        owners: of every batch, the process that has it.
    """

    whole: tuple[Batch, ...]
    ranks: Ranks
    owners: tuple[int, ...]

    @classmethod
    def of(cls, batches: Sequence[Batch], ranks: Ranks = ALONE) -> Portion:
        """Deal ``batches`` out, in turns and by their samples; what has been dealt out already stays as it is."""
        if isinstance(batches, Portion):
            return batches
        return cls(tuple(batches), ranks, tuple(ranks.owners([batch.size for batch in batches])))

    def chosen(self, numbers: Sequence[int]) -> Portion:
        """Some of the batches, by their place in ``whole``; each stays with its process."""
        return Portion(
            tuple(self.whole[number] for number in numbers),
            self.ranks,
            tuple(self.owners[number] for number in numbers),
        )

    def again(self, batches: Sequence[Batch]) -> Portion:
        """Some of the batches, dealt out anew."""
        return Portion.of(tuple(batches), self.ranks)

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """Places in ``whole`` of this process's batches."""
        return tuple(number for number, owner in enumerate(self.owners) if owner == self.ranks.index)

    @property
    def sample(self) -> Batch:
        """The first sample of all, the same for every process: for what one sample tells about the model."""
        return self.whole[0].head()

    def __bool__(self) -> bool:
        """Whether there are batches at all, if only with other processes."""
        return bool(self.whole)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        """This process's batches by their place among its own."""
        if isinstance(index, slice):
            return [self.whole[number] for number in self.numbers[index]]
        return self.whole[self.numbers[index]]

    def __iter__(self) -> Iterator[Batch]:
        return (self.whole[number] for number in self.numbers)

    def joined(self, what: str, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Rows of all batches ``[N, …]``, in the order of ``whole``: what one process would have.

        Args:
            what: they are, for messages.
            rows: those of this process's batches one after the other; without any, of the shape ``[0]``.
            counts: how many each of its batches gives.
        """
        if self.ranks.count == 1:
            return rows
        parts = self.ranks.collected(what, rows)
        lengths = self.ranks.notes(what, list(counts))
        pieces = [iter(part.split(sizes)) for part, sizes in zip(parts, lengths, strict=True)]
        return torch.cat([next(pieces[owner]) for owner in self.owners])


def draws(seed: int, number: int) -> torch.Generator:
    """Random numbers for the batch at ``number``: the same whichever process has it, and whatever it had before."""
    return torch.Generator().manual_seed(seed + number)
