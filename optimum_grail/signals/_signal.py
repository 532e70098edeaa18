"""What a signal is, and what it sees of the dense model.

The walk has three phases. Before it, every signal may look at the whole model. Then the dense stream runs once through
every block: :meth:`Signal.batch` sees each batch's run, and when all batches have passed, :meth:`Signal.block` may
measure with what was gathered. At the end :meth:`Signal.after` says what is kept. Whenever a signal is called, the
model is the dense one: what a signal changes it puts back before it returns. So no signal depends on another, nor on
their order.

Where several processes share the data, each walks with its own batches. Moments, what :meth:`Signal.batch` returns and
:meth:`Visit.damage` are sums over all of them already; a signal that looks at batches itself adds up with
``dense.batches.ranks``. What all processes find is compared, and a signal that forgot to is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.problem import GroupProblem
from optimum_grail.data.batches import PROBE_FRACTION
from optimum_grail.data.portion import Portion
from optimum_grail.errors import StatisticsError
from optimum_grail.models.layout import Layout, Stack
from optimum_grail.streams.calls import Call
from optimum_grail.streams.capture import Order
from optimum_grail.streams.probe import Record, Wanted
from optimum_grail.streams.tail import Tail

Tensors = Mapping[str, Tensor]
"""By the name of the group, the path of the block or module, or whatever a signal describes."""


@dataclass(frozen=True)
class Dense:
    """The dense model with its calibration data, before anything has run through its blocks.

    Args:
        model: in eval mode.
        layout: its stacks and groups.
        batches: calibration batches of this process.
        few: which of them, by their place among its own, short forward passes take; a process may have none.
        seed: of draws.
        order: how the stacks follow each other.
        offload: keep hidden states in files of a temporary folder instead of in memory.
        tail: the dense outputs on the batches ``few``; ``None`` if no signal asked for it.
    """

    model: nn.Module
    layout: Layout
    batches: Portion
    few: Sequence[int]
    seed: int
    order: Order
    offload: bool = False
    tail: Tail | None = None


@dataclass(frozen=True)
class Seen:
    """One batch's run through a block.

    Args:
        path: of the block.
        before: the hidden state that entered.
        after: the one that left.
        records: what signals asked to see of each group, by name.
        mask: ``[B, T]``, non-zero on real rows; ``None`` where all are real.
    """

    path: str
    before: Tensor
    after: Tensor
    records: Mapping[str, Record]
    mask: Tensor | None


@dataclass(frozen=True)
class Visit:
    """A block that all batches have passed.

    Args:
        dense: the model; all of it is dense still.
        stack: the block's stack.
        position: of the block in its stack.
        groups: those of the block that have units.
        calls: what this block and those after it are called with, per batch, by path.
        inputs: the hidden states that entered the block on the few batches.
        problems: the groups as numbers with their statistics, by name; empty if no signal asked for moments.
    """

    dense: Dense
    stack: Stack
    position: int
    groups: Sequence[ChannelGroup]
    calls: Mapping[str, Sequence[Call]]
    inputs: Sequence[Tensor]
    problems: Mapping[str, GroupProblem]

    @property
    def path(self) -> str:
        """The block's path."""
        return self.stack.blocks[self.position]

    def damage(self, *, without: bool = False) -> float:
        """Loss of the model as it is now against the dense outputs, on the few batches.

        Args:
            without: pass this block by.

        Raises:
            StatisticsError: the signal did not ask for the tail.
        """
        if self.dense.tail is None:
            raise StatisticsError(
                f"The dense outputs behind {self.path!r} were not kept; the signal should declare `tail`."
            )
        paths = self.stack.blocks[self.position + without :]
        later = [(path, [self.calls[path][index] for index in self.dense.few]) for path in paths]
        return self.dense.tail.damage(self.stack.name, later, self.inputs)


@dataclass(frozen=True)
class Work:
    """What signals cost is counted in: seconds, and bytes of what they keep.

    Args:
        forward: one pass over all calibration data through all blocks.
        gram: the second moments of all groups.
        solve: one solve for every group.
        groups: how many there are.
        blocks: the same of blocks.
        batches: of calibration batches.
        rest: one pass over all calibration data through what is no block: embeddings and head.
        stream: bytes of the hidden states of all calibration data between two blocks.
        put_out: features that all consumers together put out for a row.
        rows: calibration rows of the widest group.
        pairs: rotation pairs of a head, where heads can shrink inside.
    """

    forward: float
    gram: float
    solve: float
    groups: int
    blocks: int
    batches: int
    rest: float = 0.0
    stream: float = 0.0
    put_out: int = 0
    rows: int = 0
    pairs: int = 0

    @property
    def probe(self) -> float:
        """One pass of the few batches that short forward passes take, through all blocks."""
        return self.forward / PROBE_FRACTION

    @property
    def outputs(self) -> float:
        """What becomes of the few batches after the blocks, once: every loss asks for it."""
        return self.rest / PROBE_FRACTION


@dataclass(frozen=True)
class Signal:
    """One measurement of the dense model: a frozen dataclass, enrolled in :data:`optimum_grail.signals.SIGNALS`.

    What it finds depends on nothing but the model, its layout, the data and the seed (and the machine, if it says so),
    so that it can be kept between runs.
    """

    version: ClassVar[int] = 1
    """Rises whenever what the signal finds changes: what was kept of another version is measured again."""
    wanted: ClassVar[Wanted | None] = Wanted()
    """What to record of each group while a block runs; ``None``: the signal looks at no block, and for its sake no
    batch is sent through them."""
    moments: ClassVar[bool] = False
    """Whether it reads the statistics of the groups."""
    tail: ClassVar[bool] = False
    """Whether it calls :meth:`Visit.damage`."""
    labels: ClassVar[bool] = False
    """Whether it reads the labels of the data, where there are some."""
    timed: ClassVar[bool] = False
    """Whether the machine decides what it finds: it is then kept for this machine alone."""
    finds: ClassVar[str | None] = None
    """Name under which findings keep what it returns; ``None``: its own. ``"curves"`` makes error curves."""

    def before(self, dense: Dense) -> Tensors:
        """What is found before the walk; nothing by default."""
        return {}

    def batch(self, seen: Seen) -> Tensors:
        """Of one batch's run: tensors that are summed up over the batches; nothing by default."""
        return {}

    def block(self, visit: Visit, sums: Tensors, found: Tensors) -> Tensors:
        """What is found at a block; nothing by default.

        Args:
            visit: the block.
            sums: of what :meth:`batch` returned.
            found: what the signal has found so far.
        """
        return {}

    def after(self, found: Tensors) -> Tensors:
        """What is kept of everything found; all of it by default."""
        return found

    def cost(self, work: Work) -> float:
        """Seconds beyond the walk itself, its moments and its tail; none by default."""
        return 0.0

    def memory(self, work: Work) -> float:
        """Bytes that are kept while the walk goes on, beyond the statistics of a block; none by default."""
        return 0.0
