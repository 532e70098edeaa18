"""Where a model has a hidden width: ports of producers and consumers, and the groups that shrink together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

GroupKind = Literal["mlp", "heads", "conv", "experts", "expert-channels", "shared-channels", "classifier"]
IN_BANKS = frozenset({"experts", "expert-channels"})
"""Kinds of groups whose consumer holds all experts of a layer."""
IN_MIXTURES = IN_BANKS | {"shared-channels"}
"""Kinds of groups that are there only where they are asked for: nothing is measured of them before the fit."""
EXPERT_STEP = 8
"""Widths inside experts are multiples of it: transformers multiplies all experts at once, by kernels that want every
row of a matrix to begin at a multiple of 16 bytes, in two bytes per number too."""
Side = Literal["out", "in"]


@dataclass(frozen=True)
class Port:
    """A strip of one weight axis: unit ``u`` owns elements ``[offset + u * span, offset + (u + 1) * span)``.

    Args:
        module: dotted path of the module from the model's root.
        side: ``"out"`` for rows (output features, filters, BatchNorm channels), ``"in"`` for columns.
        span: elements per unit.
        offset: first element of unit 0; what lies outside ``[offset, offset + units * span)`` is left alone.
    """

    module: str
    side: Side
    span: int = 1
    offset: int = 0

    def elements(self, units: Tensor) -> Tensor:
        """Indices of the elements that ``units`` (int64, shape ``[k]``) own, in order; int64, shape ``[k * span]``."""
        return (self.offset + units[:, None] * self.span + torch.arange(self.span, device=units.device)).flatten()


@dataclass(frozen=True)
class HeadTable:
    """A parameter with elements per unit that is no row of a producer: a bias that each head adds by distance.

    Args:
        path: dotted path of the parameter from the model's root.
        axis: along which the units lie, unit after unit, all of it.
        span: elements per unit along the axis.
        cost: parameters per unit.
    """

    path: str
    axis: int
    span: int
    cost: int


@dataclass(frozen=True)
class HeadArgument:
    """What an attention module is called with and holds a slice per query head along axis 1, ``[B, heads, ...]``, of
    all heads that the dense layer has: a position bias that many layers share. A layer that has lost heads picks its
    own slices.

    Args:
        name: of the argument.
        make: ``(attention, arguments by name) -> Tensor``: what the module makes of it when it is not given, of all
            heads; ``None``, or where that returns ``None``: the module makes its own, of the heads that it has.
        returned: place of the argument in the tuple that the module returns, for others to use; ``None``: nowhere. Such
            a module cannot lose all its heads.
    """

    name: str
    make: Callable[[torch.nn.Module, Mapping[str, object]], Tensor | None] | None = None
    returned: int | None = None


@dataclass(frozen=True)
class RotaryHeads:
    """An attention whose heads can shrink inside; all paths from the model's root.

    Args:
        query, key, value: the projections, all of whose rows are heads of ``size`` dimensions.
        size: dimensions per head.
        size_at: the integer attribute that says so.
        scaling_at: the number that logits are multiplied by, ``size ** -0.5``.
        rotary: the module that makes the cosines and sines of all pairs, for all layers.
    """

    query: str
    key: str
    value: str
    size: int
    size_at: str
    scaling_at: str
    rotary: str


@dataclass(frozen=True)
class StreamFunction:
    """A residual sum that no submodule sees: computed from the block's input and records of submodule outputs.

    Args:
        function: ``(block, block_input, records) -> Tensor``, pure; ``records`` maps a submodule path (relative to
            the block) to a clone of its output.
        records: the submodule paths that ``function`` reads.
    """

    function: Callable[[torch.nn.Module, Tensor, Mapping[str, Tensor]], Tensor]
    records: tuple[str, ...] = ()


AT_OUTPUT = "@block"
"""A stream that is seen at the block's output."""

Stream = str | StreamFunction | None
"""Where the residual sum after a sub-block is seen, relative to the block: ``"name"`` is that submodule's input,
``"name:output"`` its output, ``"@block"`` the block's output; ``None``: the group reaches no residual sum."""


@dataclass(frozen=True)
class ChannelGroup:
    """Everything that shrinks together: producers' rows, channelwise modules in between, one consumer's columns.

    Args:
        name: unique within the model, for example ``"model.layers.0.mlp"``.
        kind: ``"mlp"``, ``"heads"``, ``"conv"``, ``"experts"``, ``"expert-channels"`` or ``"shared-channels"``
            (of experts that all tokens pass, as wide as routed ones); ``"classifier"``: a layer after the blocks, which
            only a fit has.
        units: how many units there are (channels, KV groups, filters, experts; channels inside one expert).
        producers: the strips whose rows go (channelwise modules included).
        consumer: the strip whose columns go.
        block: path of the repeated block that owns the group.
        layer: position of the block, the pattern's index levels joined by dots: ``"3"`` or ``"0.1"``.
        owner: path of the (sub-)model whose config describes the width; ``""`` is the root.
        stage: order within the block: groups of stage 0 are compressed before those of stage 1.
        stream: where the residual sum after the consumer is seen.
        tie: groups of equal ``tie`` get the same width under allocations of one width per kind.
        cost: parameters that one unit costs, over all ports.
        attention: path of the module that computes attention from the producers, for heads.
        norm: path of the BatchNorm right after the consumer, if any.
        factor: path of the parameter or number that the consumer's output is multiplied by before it joins the stream,
            if any.
        uniform: groups of equal ``uniform`` can only have the same width, and only one that the stock config can say;
            ``""``: no such bond.
        cached: elements of keys and values per unit and token, for heads.
        tables: parameters with elements per unit beside the producers.
        arguments: what ``attention`` is called with that has a slice per query head.
        inside: how the heads can shrink inside; ``None``: they cannot.
        fields: config field (or, for tables only, local name) and its elements per unit.
        attributes: path of an integer module attribute that follows the width, and its elements per unit.
        chosen: of experts and their channels, how many experts the router chooses for a token.
        copies: of channels inside experts, how many experts have so many of their own; 1 elsewhere. A reduction then
            has the units of all of them, expert after expert.
    """

    name: str
    kind: GroupKind
    units: int
    producers: tuple[Port, ...]
    consumer: Port
    block: str
    layer: str
    owner: str
    stage: int
    stream: Stream
    tie: str
    cost: int
    attention: str | None = None
    norm: str | None = None
    fields: tuple[tuple[str, int], ...] = ()
    attributes: tuple[tuple[str, int], ...] = ()
    factor: str | None = None
    uniform: str = ""
    cached: int = 0
    tables: tuple[HeadTable, ...] = ()
    arguments: tuple[HeadArgument, ...] = ()
    chosen: int = 0
    copies: int = 1
    inside: RotaryHeads | None = None

    def resized(self, size: int) -> ChannelGroup:
        """The group when its heads have ``size`` dimensions; itself where they cannot shrink inside."""
        if self.inside is None:
            return self
        whole = self.inside.size

        def scaled(port: Port) -> Port:
            """A strip whose units are as many heads, of the new size."""
            return replace(port, span=port.span // whole * size)

        return replace(
            self,
            producers=tuple(scaled(port) for port in self.producers),
            consumer=scaled(self.consumer),
            cost=self.cost // whole * size,
            cached=self.cached // whole * size,
            inside=replace(self.inside, size=size),
        )

    def narrowed(self, slots: int) -> ChannelGroup:
        """The group when ``slots`` of its units are left: strips of one module move up."""
        gone = self.units - slots

        def moved(port: Port) -> Port:
            """A producer's strip behind what went of the others."""
            ahead = (each for each in self.producers if each.module == port.module and each.offset < port.offset)
            return replace(port, offset=port.offset - sum(gone * each.span for each in ahead))

        return replace(self, units=slots, producers=tuple(moved(port) for port in self.producers))

    def admits(self, units: int) -> bool:
        """Whether a reduction may be of so many units: where experts have units of their own, of those of some of
        them."""
        experts, rest = divmod(units, self.units) if self.units else (int(units == 0), 0)
        return not rest and 1 <= experts <= self.copies

    @property
    def step(self) -> int:
        """By how many units a width that runs differs from another: :data:`EXPERT_STEP` inside experts."""
        return EXPERT_STEP if self.kind == "expert-channels" else 1

    @property
    def fewest(self) -> int:
        """Fewest units that can be kept: none where the sub-block can go altogether."""
        if self.kind == "experts":
            return self.chosen
        lasting = bool(self.uniform) or any(argument.returned is not None for argument in self.arguments)
        return 0 if not lasting and (self.kind == "mlp" or self.attention is not None) else 1
