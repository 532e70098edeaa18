"""What a fit tells of every block it has compressed, and asks of those that an earlier run did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import GroupPlan
from optimum_grail.models.layout import Stack
from optimum_grail.streams.blocks import Streams


class Record(Protocol):
    """Blocks that are done."""

    def has(self, path: str) -> bool:
        """Whether an earlier run compressed the block at ``path``."""

    def restore_(self, model: nn.Module, path: str, groups: Sequence[ChannelGroup]) -> list[GroupPlan]:
        """Make the dense block what that run made of it, and return its plans.

        Args:
            model: with the block at ``path`` dense.
            path: of a block that :meth:`has` is true of.
            groups: those of its groups about which anything is to be done.

        Raises:
            CheckpointError: what was kept is damaged, or was not made for this block.
        """

    def keep(self, model: nn.Module, path: str, plans: Sequence[GroupPlan]) -> None:
        """The block at ``path`` is compressed in ``model``, by ``plans``."""

    def keep_streams(self, stack: Stack, path: str, streams: Streams) -> None:
        """``streams`` are what leaves the block at ``path``, of which :meth:`keep` may have been told."""

    def take_streams_(self, stack: Stack, streams: Streams) -> Sequence[str]:
        """Let ``streams``, which enter the stack, be what left one of its blocks.

        Returns:
            the paths of that block and of all before it, which need not be passed any more; empty where nothing was
            kept of this stack, and ``streams`` are unchanged.
        """
        raise NotImplementedError


class Unrecorded:
    """Knows of no block, and keeps none."""

    def has(self, path: str) -> bool:
        """Never."""
        return False

    def restore_(self, model: nn.Module, path: str, groups: Sequence[ChannelGroup]) -> list[GroupPlan]:
        """Nothing."""
        return []

    def keep(self, model: nn.Module, path: str, plans: Sequence[GroupPlan]) -> None:
        """Nothing."""

    def keep_streams(self, stack: Stack, path: str, streams: Streams) -> None:
        """Nothing."""

    def take_streams_(self, stack: Stack, streams: Streams) -> Sequence[str]:
        """None."""
        return ()
