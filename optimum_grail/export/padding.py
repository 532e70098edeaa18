"""Attention with more heads that computes the same: the heads that are added see nothing and say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Room:
    """Heads of an attention and the heads that it gets.

    Args:
        heads, groups: query heads and key-value heads that it has.
        all_heads, all_groups: that it gets; whole multiples of each other, as are those.
    """

    heads: int
    groups: int
    all_heads: int
    all_groups: int

    def places(self) -> list[int]:
        """Where each query head goes: the first of its group's, so that it reads the same keys and values."""
        own, whole = self.heads // max(self.groups, 1), self.all_heads // self.all_groups
        return [head // own * whole + head % own for head in range(self.heads)]

    def query(self, rows: Tensor, head_dim: int) -> Tensor:
        """Rows of the query projection (weight or bias) with zeros where heads are added."""
        own = rows.reshape(self.heads, head_dim, *rows.shape[1:])
        padded = own.new_zeros((self.all_heads, *own.shape[1:]))
        padded[self.places()] = own
        return padded.reshape(-1, *rows.shape[1:])

    def key(self, rows: Tensor, head_dim: int) -> Tensor:
        """Rows of the key or value projection (weight or bias), zeros behind them."""
        return torch.cat([rows, rows.new_zeros(((self.all_groups - self.groups) * head_dim, *rows.shape[1:]))])

    def out(self, weight: Tensor, head_dim: int) -> Tensor:
        """The weight of the output projection with columns of zeros where heads are added."""
        return self.query(weight.T.contiguous(), head_dim).T.contiguous()


def rooms(counts: Sequence[tuple[int, int]]) -> list[Room]:
    """The same number of query heads for all, and for each the fewest key-value heads that divide it.

    Args:
        counts: query heads and key-value heads; 0 and 0 for an attention that computes nothing.
    """
    most = max((heads for heads, _ in counts), default=1) or 1
    while any(_groups(heads, groups, most) is None for heads, groups in counts):
        most += 1
    return [Room(heads, groups, most, _groups(heads, groups, most) or 1) for heads, groups in counts]


def _groups(heads: int, groups: int, most: int) -> int | None:
    """The fewest key-value heads that divide ``most`` and have room for all query heads; ``None`` if none do."""
    own = heads // groups if groups else 1
    fitting = [count for count in range(max(groups, 1), most + 1) if most % count == 0 and most // count >= own]
    return fitting[0] if fitting else None
