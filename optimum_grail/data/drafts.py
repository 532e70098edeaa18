"""Rows of self-written text while they are written: beginnings, and fresh beginnings along the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optimum_grail.data.starts import Starts

LOOP_TOKENS, LOOP_SHARE = 64, 0.5
"""A row goes round in circles where of the runs of four tokens among its last 64 less than this share are different."""

_LOOP_RUN, _LOOP_STEP = 4, 16
_FREE = -1


@dataclass(eq=False)
class Drafts:
    """Rows while they are written. What stands in them before the model comes to it, it reads instead of writing: so
    beginnings may differ in length, and a fresh one may follow anywhere.

    Args:
        starts: what rows begin with, and begin anew with.
        restart_loops: whether rows that go round in circles are begun anew.
        ends: tokens after which a row is begun anew.
        restarts: how many times a row that went round in circles was begun anew.
    """

    starts: Starts
    restart_loops: bool
    ends: Sequence[int]
    restarts: int = 0
    _text: Tensor = field(init=False)
    _since: list[int] = field(init=False)

    def begin(self, count: int, seqlen: int, bos: int | None, device: torch.device) -> Tensor:
        """The rows, int64 ``[count, seqlen]``: their beginnings, and -1 where the model has to write."""
        self._text = torch.full((count, seqlen), _FREE, dtype=torch.int64, device=device)
        self._since = [0] * count
        first = 0
        if bos is not None:
            self._text[:, 0], first = bos, 1
        self._start(range(count), first)
        return self._text

    def _start(self, rows: Sequence[int], position: int) -> None:
        for row, start in zip(rows, self.starts.deal(len(rows)), strict=True):
            room = self._text[row, position:]
            room[: len(start)] = start[: len(room)]
            self._since[row] = position

    def given(self) -> int:
        """With how many tokens every row begins."""
        free = (self._text == _FREE).any(dim=0)
        return int(free.int().argmax()) if bool(free.any()) else len(free)

    def put(self, position: int, drawn: Tensor) -> Tensor:
        """Write ``drawn`` (int64 ``[rows, 1]``) where nothing stands yet, and begin anew the rows that have come to an
        end; returns what stands at ``position`` now."""
        column = self._text[:, position : position + 1]
        free = column == _FREE
        column.copy_(torch.where(free, drawn, column))
        if position + 1 < self._text.shape[1]:
            ended = self._ended(column, free) | self._looping(position)
            self._start([row for row in sorted(ended) if self._text[row, position + 1] == _FREE], position + 1)
        return column

    def _ended(self, column: Tensor, free: Tensor) -> set[int]:
        if not self.ends:
            return set()
        ends = torch.isin(column, torch.tensor(self.ends, device=column.device)) & free
        return set(ends.flatten().nonzero().flatten().tolist())

    def _looping(self, position: int) -> set[int]:
        if not self.restart_loops or (position + 1) % _LOOP_STEP:
            return set()
        able = [row for row, since in enumerate(self._since) if position + 1 - since >= LOOP_TOKENS]
        if not able:
            return set()
        last = self._text[able, position + 1 - LOOP_TOKENS : position + 1]
        found = {row for row, share in zip(able, distinct_share(last).tolist(), strict=True) if share < LOOP_SHARE}
        self.restarts += len(found)
        return found


def distinct_share(ids: Tensor) -> Tensor:
    """Of each row of ``ids`` (int64 ``[rows, tokens]``), how many of its runs of four tokens are different, as a share
    of all of them; float32 ``[rows]``."""
    runs = ids.unfold(1, _LOOP_RUN, 1).tolist()
    return torch.tensor([len(set(map(tuple, row))) / len(row) for row in runs])
