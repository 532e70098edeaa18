"""What a fit tells of every block it has compressed, and asks of those that an earlier run did."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from torch import nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import GroupPlan
from optimum_grail.models.layout import Stack
from optimum_grail.streams.blocks import Streams


class Record(Protocol):
    """Blocks that are done."""

    def done_(self, stack: Stack, streams: Streams | None) -> Collection[str]:
        """Which blocks of a stack need not be passed any more.

        Args:
            stack: the stack.
            streams: what enters it; afterwards what leaves the last of these blocks, where any block follows that needs
                it. ``None``: nothing passes the blocks.
        """
        raise NotImplementedError

    def restore_(self, model: nn.Module, path: str, groups: Sequence[ChannelGroup]) -> list[GroupPlan]:
        """Make a dense block what an earlier run made of it, and return its plans.

        Args:
            model: with the block at ``path`` dense.
            path: of one of the blocks that :meth:`done_` named.
            groups: those of its groups about which anything is to be done.

        Raises:
            CheckpointError: what was kept is damaged, or was not made for this block.
        """
        raise NotImplementedError

    def keep(
        self,
        model: nn.Module,
        stack: Stack,
        path: str,
        plans: Sequence[GroupPlan],
        streams: Streams | None,
        last: bool,
    ) -> None:
        """A block is done.

        Args:
            model: with the block compressed.
            stack: whose block it is.
            path: of the block.
            plans: what was done to it; none if it stays whole.
            streams: what leaves it; ``None`` where nothing passes the blocks.
            last: whether nothing asks for ``streams`` any more, so that they were not moved on.
        """
        return


class Unrecorded(Record):
    """Knows of no block, and keeps none."""

    def done_(self, stack: Stack, streams: Streams | None) -> Collection[str]:
        """None."""
        return ()

    def restore_(self, model: nn.Module, path: str, groups: Sequence[ChannelGroup]) -> list[GroupPlan]:
        """Nothing."""
        return []
