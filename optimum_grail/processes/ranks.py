"""The processes of a run, as every stage sees them: what they add up, collect, leave to the first, and agree on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optimum_grail.errors import ProcessError
from optimum_grail.processes.channel import Channel, packed, unpacked

SMALL = 2**12
"""Sums of at most so many values go together."""
TOLERANCE = 1e-6
"""By how much of the largest value numbers may differ that processes have computed from the same sums: machines of one
kind differ by nothing, others round differently."""
DTYPES: Mapping[str, torch.dtype] = {
    str(dtype): dtype
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint8)
}
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Ranks:
    """The processes that share a run. With one process every method returns what it is given.

    Args:
        index: this process, from 0.
        count: how many there are.
        channel: to the others; ``None``: there are none.
    """

    index: int = 0
    count: int = 1
    channel: Channel | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.index == 0

    def owners(self, sizes: Sequence[int]) -> list[int]:
        """Which process gets each of some pieces of work: in turns, the next piece to whoever has least so far.

        Args:
            sizes: of the pieces, in their order.
        """
        load = [0] * self.count
        found = []
        for size in sizes:
            found.append(min(range(self.count), key=lambda index: load[index]))
            load[found[-1]] += size
        return found

    def share(self, count: int) -> range:
        """This process's part of ``count`` things in a row."""
        bounds = [index * count // self.count for index in (self.index, self.index + 1)]
        return range(*bounds)

    def added(self, what: str, tensors: Tensors) -> dict[str, Tensor]:
        """Sums over all processes, by name, in float64; int64 stays exact. A process without rows may lack names: it
        gets what the others have. Tensors are added to in place where they are float64 and contiguous.

        Args:
            what: is added up, for messages.
            tensors: this process's part; of one name all have the same shape.

        Raises:
            ProcessError: another process failed, is gone, or does something else.
        """
        if self.channel is None:
            return dict(tensors)
        self.channel.begin(what)
        named = [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in tensors.items()]
        known: dict[str, tuple[list[int], str]] = {}
        for part in self.channel.notes(named, what):
            for name, shape, dtype in part:
                if known.setdefault(name, (shape, dtype)) != (shape, dtype):
                    raise ProcessError(f"Processes have {what} of different shapes: {known[name][0]} and {shape}.")
        device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
        sums = {
            name: tensors[name].double().contiguous()
            if name in tensors
            else torch.zeros(shape, dtype=torch.float64, device=device)
            for name, (shape, _) in known.items()
        }
        self._add_(self.channel, what, list(sums.values()))
        whole = {name for name, (_, dtype) in known.items() if dtype == str(torch.int64)}
        return {name: value.round().long() if name in whole else value for name, value in sums.items()}

    @staticmethod
    def _add_(channel: Channel, what: str, values: Sequence[Tensor]) -> None:
        small = [value for value in values if value.numel() <= SMALL]
        if small:
            joined = torch.cat([value.reshape(-1).cpu() for value in small])
            channel.add_(joined, what)
            for value, part in zip(small, joined.split([value.numel() for value in small]), strict=True):
                value.copy_(part.reshape(value.shape))
        for value in values:
            if value.numel() > SMALL:
                channel.add_(value, what)

    def total(self, what: str, *values: float) -> list[float]:
        """The sum of each of ``values`` over all processes."""
        if self.channel is None:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        self.channel.begin(what)
        self.channel.add_(sums, what)
        return [float(value) for value in sums]

    def any(self, what: str, flag: bool) -> bool:
        """Whether it holds for any of the processes."""
        return self.total(what, float(flag))[0] > 0

    def notes(self, what: str, value: Any) -> list[Any]:
        """What every process says, JSON values by its index."""
        if self.channel is None:
            return [value]
        self.channel.begin(what)
        return self.channel.notes(value, what)

    def collected(self, what: str, rows: Tensor) -> list[Tensor]:
        """The rows of every process, by its index.

        Args:
            what: they are, for messages.
            rows: this process's, ``[n, …]``; those without any may give any shape ``[0]``.

        Returns:
            in this process's memory, those of others on the device of its own.
        """
        if self.channel is None:
            return [rows]
        heads = self.notes(what, [list(rows.shape), str(rows.dtype)])
        shape, dtype = next((head for head in heads if head[0][0]), heads[0])
        parts = self.channel.bytes(packed(rows), what)
        return [
            unpacked(part, [head[0][0], *shape[1:]], DTYPES[dtype]).to(rows.device)
            for part, head in zip(parts, heads, strict=True)
        ]

    def from_first(self, what: str, make: Callable[[], Tensors]) -> dict[str, Tensor]:
        """What the first process makes; the others wait for it.

        Args:
            what: it is, for messages.
            make: called by the first process only.
        """
        made = dict(make()) if self.first else {}
        if self.channel is None:
            return made
        named = [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in made.items()]
        heads = self.notes(what, named)[0]
        found = {}
        for name, shape, dtype in heads:
            like = made[name] if name in made else torch.empty(shape, dtype=DTYPES[dtype])
            data = packed(like).clone()
            self.channel.from_first_(data, what)
            found[name] = made[name] if name in made else unpacked(data, shape, DTYPES[dtype])
        return found

    def agreed(self, what: str, tensors: Tensors) -> dict[str, Tensor]:
        """What all processes have found, each from the same sums; the first one's, so that decisions rest on the same
        bits.

        Args:
            what: it is, for messages.
            tensors: as this process has them.

        Raises:
            ProcessError: they differ: whole numbers at all, others by more than :data:`TOLERANCE`.
        """
        if self.channel is None:
            return dict(tensors)
        first = self.from_first(what, lambda: tensors)
        unlike = next((name for name in {**first, **tensors} if not _alike(first.get(name), tensors.get(name))), None)
        told = self.notes(what, unlike)
        for index, name in enumerate(told):
            if name is not None:
                raise ProcessError(
                    f"Processes 0 and {index} of {self.count} came to different results for {what} ({name}). Something "
                    "was decided on the rows of one process alone, or they run on machines or versions of different "
                    "kinds. Run it in one process, or on machines of one kind."
                )
        return first


ALONE = Ranks()
"""One process that does everything."""


def _alike(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return torch.equal(one.cpu(), other.cpu())
    one, other = one.double().cpu(), other.double().cpu()
    finite = one.isfinite()
    if not torch.equal(finite, other.isfinite()) or not torch.equal(
        one[~finite].nan_to_num(), other[~finite].nan_to_num()
    ):
        return False
    size = float(one[finite].abs().max()) if bool(finite.any()) else 0.0
    return bool(((one[finite] - other[finite]).abs() <= TOLERANCE * size).all())
