"""What processes say to each other: every exchange begins with what it is about, so that one that fails tells the
others why, and two that do different things find out instead of waiting for each other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from optimum_grail.errors import ProcessError

TITLE_BYTES = 512
"""What an exchange is about, or an error's message, cut to so many bytes."""
SLICE = 2**23
"""Most float64 values that are handed over at once, 64 MiB: the library keeps copies of what it sends."""
_FAILED = 1


@dataclass
class Channel:
    """The connection of one process to all others. Everything goes through the memory of the CPU.

    Args:
        index: this process, from 0.
        count: how many there are.
        titles, values: groups of all processes; two, so that an error is never taken for what is added up.
        minutes: how long the others are waited for, for messages.
        sent: bytes that were handed over so far, beside titles.
    """

    index: int
    count: int
    titles: dist.ProcessGroup
    values: dist.ProcessGroup
    minutes: float
    sent: int = 0

    def begin(self, what: str) -> None:
        """Wait for all processes to come to an exchange.

        Raises:
            ProcessError: one failed, is gone, or came to another exchange.
        """
        found = self._titles(0, what, what)
        for index, (kind, text) in enumerate(found):
            if kind == _FAILED:
                raise ProcessError(f"Process {index} of {self.count} failed, so this one stops as well: {text}")
        if len({text for _, text in found}) > 1:
            told = ", ".join(f"{index}: {text}" for index, (_, text) in enumerate(found[:4]))
            raise ProcessError(
                f"The processes of this run do different things ({told}). Give all of them the same command, model, "
                "data and versions."
            )

    def fail(self, reason: str) -> None:
        """Tell the others, when they come to their next exchange, why there will be none."""
        self._titles(_FAILED, reason, "telling the others of an error")

    def texts(self, text: str, what: str) -> list[str]:
        """What every process says, by its index."""
        own = torch.tensor(list(text.encode()), dtype=torch.uint8)
        return [bytes(part.tolist()).decode() for part in self._ragged(own, what)]

    def notes(self, value: Any, what: str) -> list[Any]:
        """The same with JSON values."""
        return [json.loads(text) for text in self.texts(json.dumps(value), what)]

    def bytes(self, own: Tensor, what: str) -> list[Tensor]:
        """The bytes, uint8 ``[n]``, of every process, by its index; as many as each has."""
        return self._ragged(own, what)

    def add_(self, values: Tensor, what: str) -> None:
        """Replace contiguous float64 ``values`` by their sum over all processes; every one has the same bits then."""
        flat = values.view(-1)
        with self._answered(what):
            for part in flat.split(SLICE):
                here = part.cpu()
                dist.all_reduce(here, group=self.values)
                if here.data_ptr() != part.data_ptr():
                    part.copy_(here)
        self.sent += flat.nbytes

    def from_first_(self, values: Tensor, what: str) -> None:
        """Replace uint8 ``values`` ``[n]`` in the memory of the CPU by those of process 0."""
        with self._answered(what):
            for part in values.split(8 * SLICE):
                dist.broadcast(part, group=self.values, group_src=0)
        self.sent += values.nbytes

    def _titles(self, kind: int, text: str, what: str) -> list[tuple[int, str]]:
        words = text.encode()[: TITLE_BYTES - 1]
        own = torch.zeros(TITLE_BYTES, dtype=torch.uint8)
        own[0] = kind
        own[1 : 1 + len(words)] = torch.tensor(list(words), dtype=torch.uint8)
        found = [torch.empty_like(own) for _ in range(self.count)]
        with self._answered(what):
            dist.all_gather(found, own, group=self.titles)
        return [(int(part[0]), bytes(part[1:].tolist()).rstrip(b"\0").decode(errors="replace")) for part in found]

    def _ragged(self, own: Tensor, what: str) -> list[Tensor]:
        with self._answered(what):
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
            dist.all_gather(sizes, torch.tensor([len(own)]), group=self.values)
            most = max(int(size) for size in sizes)
            padded = torch.zeros(most, dtype=torch.uint8)
            padded[: len(own)] = own
            found = [torch.empty_like(padded) for _ in sizes]
            dist.all_gather(found, padded, group=self.values)
        self.sent += most
        return [part[: int(size)] for part, size in zip(found, sizes, strict=True)]

    @contextmanager
    def _answered(self, what: str) -> Iterator[None]:
        """Errors of the library as one of ours."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1:] or ["no reason given"]
            raise ProcessError(
                f"Another of the {self.count} processes is gone, or did not answer within {self.minutes:g} minutes "
                f"(at: {what}; {reason[0][:200]}). What ended it is told where it ran: its own output, or the system's "
                "log where memory ran out. This one stops as well; nothing is written."
            ) from error


def packed(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, uint8 ``[n]``, in the memory of the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def unpacked(data: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The tensor that :func:`packed` made bytes of."""
    return data.clone().view(dtype).reshape(tuple(shape))
