"""The places of a model where widths can shrink, with exact parameter counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from optimum_grail.core.groups import IN_MIXTURES, ChannelGroup
from optimum_grail.core.spec import ArchitectureSpec, GroupSpec
from optimum_grail.errors import UnknownNameError


@dataclass(frozen=True)
class Stack:
    """A chain of blocks of one (sub-)model: each one's output is the next one's input.

    Args:
        name: for display and report: the owner's path, or its model type if the owner is the root; where an owner has
            several chains, the path of the list that holds the first block.
        owner: path of the (sub-)model whose config describes the widths; ``""`` is the root.
        spec: the map that found the blocks.
        blocks: paths of the blocks from the root, in order.
        layers: for each block its key in the per-layer table: the pattern's index levels joined by dots (``"3"``,
            ``"0.1"``), or the path relative to the owner if the spec has several patterns.
        after: names of the stacks that run before this one.
        mask: name of the input that marks the real ones of the rows that run through, or ``None``.
    """

    name: str
    owner: str
    spec: ArchitectureSpec
    blocks: tuple[str, ...]
    layers: tuple[str, ...]
    after: tuple[str, ...] = ()
    mask: str | None = None


@dataclass(frozen=True)
class Weights:
    """Sizes of one module that a group touches: a matrix ``rows x columns x taps`` and vectors along the rows.

    ``columns`` is 0 for a BatchNorm; ``vectors`` counts bias, or a BatchNorm's weight and bias; ``itemsize`` is bytes
    per element.
    """

    rows: int
    columns: int
    taps: int
    vectors: int
    itemsize: int = 4


@dataclass(frozen=True)
class Layout:
    """What :func:`optimum_grail.models.resolve.resolve` found; it describes the model at that moment.

    Args:
        stacks: one per chain of blocks, in the order in which the map says they run.
        groups: all groups, block by block, by stage within a block.
        specs: the declaration behind each group, by group name.
        weights: sizes of every module that a group touches, by path.
        block_parameters: parameters inside the repeated blocks (what sparsity is a fraction of).
        total_parameters: parameters of the whole model, tied ones once.
        sizes: parameters of every block, by path.
        block_bytes: bytes of the parameters inside the repeated blocks, in the dtypes they have.
        total_bytes: the same for the whole model.
    """

    stacks: tuple[Stack, ...]
    groups: tuple[ChannelGroup, ...]
    specs: Mapping[str, GroupSpec]
    weights: Mapping[str, Weights]
    block_parameters: int
    total_parameters: int
    sizes: Mapping[str, int]
    block_bytes: int
    total_bytes: int

    def group(self, name: str) -> ChannelGroup:
        """The group called ``name``.

        Raises:
            UnknownNameError: there is none; the message names the nearest.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise UnknownNameError.among("group", name, [group.name for group in self.groups])

    def of_block(self, block: str) -> tuple[ChannelGroup, ...]:
        """The groups of one block, by stage."""
        return tuple(group for group in self.groups if group.block == block)

    def of_stack(self, stack: Stack) -> tuple[ChannelGroup, ...]:
        """The groups of one stack, in order."""
        blocks = set(stack.blocks)
        return tuple(group for group in self.groups if group.block in blocks)

    @property
    def without_experts(self) -> Layout:
        """The same but for groups of experts and of their channels, of which nothing is measured before the fit."""
        return self.without(IN_MIXTURES)

    def without(self, kinds: Collection[str]) -> Layout:
        """The same but for groups of these kinds."""
        return replace(self, groups=tuple(group for group in self.groups if group.kind not in kinds))

    @cached_property
    def owners(self) -> tuple[Stack, ...]:
        """One stack per config: the chains of one (sub-)model put together."""
        chains: dict[str, list[Stack]] = defaultdict(list)
        for stack in self.stacks:
            chains[stack.owner].append(stack)
        return tuple(
            replace(
                found[0],
                blocks=tuple(path for stack in found for path in stack.blocks),
                layers=tuple(layer for stack in found for layer in stack.layers),
            )
            for found in chains.values()
        )

    @property
    def mask(self) -> str | None:
        """Name of the input that marks the real rows of what the model puts out: its last stack's that has one."""
        return next((stack.mask for stack in reversed(self.stacks) if stack.mask), None)

    @property
    def blocks(self) -> dict[str, tuple[str, ...]]:
        """Paths of every stack's blocks, by stack name."""
        return {stack.name: stack.blocks for stack in self.stacks}

    @property
    def widths(self) -> dict[str, int]:
        """Units of every group, by name."""
        return {group.name: group.units for group in self.groups}

    def removed_parameters(self, widths: Mapping[str, int], times: Mapping[str, int] | None = None) -> int:
        """Parameters that go when the groups named in ``widths`` keep that many units; exact.

        Each counts as often as ``times`` says for its module (by path), once by default; those of tables as often as
        it says for the table's path, not at all if it does not.

        Differs from the sum of :attr:`ChannelGroup.cost` where two groups meet in one module (the middle convolution
        of a bottleneck block loses rows to one group and columns to the other).
        """
        gone: dict[tuple[str, str], int] = defaultdict(int)
        for group in self.groups:
            lost = group.units - widths.get(group.name, group.units)
            for port in (*group.producers, group.consumer):
                gone[port.module, port.side] += lost * port.span
        total = 0
        for path, size in self.weights.items():
            out, into = gone[path, "out"], gone[path, "in"]
            left = (size.rows - out) * (size.columns - into)
            gone_here = (size.rows * size.columns - left) * size.taps + out * size.vectors
            total += gone_here * (1 if times is None else times[path])
        for group in self.groups:
            lost = group.units - widths.get(group.name, group.units)
            total += sum(
                lost * table.cost * (1 if times is None else times.get(table.path, 0)) for table in group.tables
            )
        return total
