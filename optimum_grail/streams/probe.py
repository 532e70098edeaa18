"""Hooks that read what a group's statistics need out of one run of a block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import AT_OUTPUT, ChannelGroup, StreamFunction
from optimum_grail.models.banks import Routed, is_bank
from optimum_grail.models.matrix import feature_axis
from optimum_grail.streams.calls import Call
from optimum_grail.streams.hooks import Reached, first, given, hooked


@dataclass
class Record:
    """What one run of a block showed of one group; every tensor is a clone, since residual additions happen in place.

    Args:
        features: input of the consumer.
        output: output of the consumer.
        stream: residual sum after the consumer.
        routed: what the consumer was called with, instead of its input, where it is a bank of experts.
    """

    features: Tensor | None = None
    output: Tensor | None = None
    stream: Tensor | None = None
    routed: Routed | None = None


@dataclass(frozen=True)
class Wanted:
    """What to record of each group."""

    features: bool = False
    output: bool = False
    stream: bool = False


@dataclass
class Probe:
    """Records ``wanted`` of ``groups`` while a block runs.

    Args:
        block: the block, with hooks attached only during :meth:`run`.
        path: the block's path in the model, which the groups' module paths start with.
        groups: groups of this block.
        wanted: what to record.
        stop_early: end the run as soon as everything is recorded (the block's output is then ``None``).
    """

    block: nn.Module
    path: str
    groups: Sequence[ChannelGroup]
    wanted: Wanted
    stop_early: bool = False
    records: dict[str, Record] = field(default_factory=dict)
    _missing: int = 0
    _tokens: Sequence[int] = ()  # batch and sequence of the hidden state

    def run(self, call: Call, hidden: Tensor) -> Tensor | None:
        """Run the block on ``hidden`` and fill :attr:`records`; returns the block's output."""
        self.records = {group.name: Record() for group in self.groups}
        submodules: dict[str, dict[str, Tensor]] = {group.name: {} for group in self.groups}
        self._missing, self._tokens = 0, hidden.shape[:-1]
        whole = [group for group in self.groups if self.wanted.stream and self._after(group)]
        before: list[tuple[nn.Module, Callable[..., None]]] = []
        after: list[tuple[nn.Module, Callable[..., None]]] = []
        for group in self.groups:
            self._attach(group, submodules[group.name], before, after)
        output: Tensor | None = None
        with suppress(Reached), hooked(before=before, after=after):
            output = call.run(self.block, hidden.clone())
        if output is not None:
            for group in whole:
                self.records[group.name].stream = self._late(group, hidden, output, submodules[group.name])
        return output

    def _after(self, group: ChannelGroup) -> bool:
        return group.stream == AT_OUTPUT or isinstance(group.stream, StreamFunction)

    def _late(self, group: ChannelGroup, hidden: Tensor, output: Tensor, seen: Mapping[str, Tensor]) -> Tensor:
        if isinstance(group.stream, StreamFunction):
            return group.stream.function(self.block, hidden, seen)
        return output

    def _local(self, path: str) -> nn.Module:
        return self.block.get_submodule(path.removeprefix(self.path + "."))

    def _attach(
        self,
        group: ChannelGroup,
        seen: dict[str, Tensor],
        before: list[tuple[nn.Module, Callable[..., None]]],
        after: list[tuple[nn.Module, Callable[..., None]]],
    ) -> None:
        """Add the hooks that a group asks for."""
        record = self.records[group.name]
        consumer = self._local(group.consumer.module)
        if self.wanted.features:
            before.append((consumer, self._routed(record) if is_bank(consumer) else self._input(record, "features")))
        if self.wanted.output or (self.wanted.stream and group.stream is None):
            after.append((consumer, self._output(record, "output")))
        if self.wanted.stream and isinstance(group.stream, StreamFunction):
            self._missing += 1  # known only when the block has run
            after += [(self.block.get_submodule(path), _keeper(seen, path)) for path in group.stream.records]
        elif self.wanted.stream and group.stream == AT_OUTPUT:
            self._missing += 1
        elif self.wanted.stream and isinstance(group.stream, str):
            path, _, side = group.stream.partition(":")
            if side == "output":
                after.append((self.block.get_submodule(path), self._output(record, "stream")))
            else:
                before.append((self.block.get_submodule(path), self._input(record, "stream")))

    def _input(self, record: Record, name: str) -> Callable[..., None]:
        """A hook that keeps a clone of a module's input."""
        self._missing += 1
        return lambda module, args, kwargs: self._keep(record, name, given(args, kwargs))

    def _routed(self, record: Record) -> Callable[..., None]:
        """A hook that keeps what a bank of experts is called with."""
        self._missing += 1

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            """Its features follow from that, and take far more memory."""
            record.routed = Routed.of(args, kwargs, self._tokens)
            self._seen()

        return keep

    def _output(self, record: Record, name: str) -> Callable[..., None]:
        """A hook that keeps a clone of a module's output."""
        self._missing += 1
        return lambda module, args, output: self._keep(record, name, first(output))

    def _keep(self, record: Record, name: str, tensor: Tensor) -> None:
        setattr(record, name, unrolled(tensor, self._tokens).clone())
        self._seen()

    def _seen(self) -> None:
        self._missing -= 1
        if self._missing == 0 and self.stop_early:
            raise Reached


def _keeper(seen: dict[str, Tensor], path: str) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Keep a clone of the output by its path."""
        seen[path] = first(output).clone()

    return hook


def unrolled(tensor: Tensor, tokens: Sequence[int]) -> Tensor:
    """``tensor``, or ``[B, T, C]`` where it is ``[B·T, C]`` and ``tokens`` are ``[B, T]``: some blocks (OPT's) put the
    tokens of all samples one behind the other before their feed-forward layers."""
    flat = tensor.dim() == len(tokens) == 2 and len(tensor) == tokens[0] * tokens[1]
    return tensor.unflatten(0, tuple(tokens)) if flat else tensor


def rows_of(tensor: Tensor, axis: int = 1) -> Tensor:
    """``[B, R, C]`` view of a hidden state: tokens as they are, feature maps as ``H·W`` rows, vectors ``[B, C]`` as one
    row each. Feature maps are ``[B, C, H, W]``, or ``[B, H, W, C]`` with ``axis=-1``."""
    if tensor.dim() == 4:
        return tensor.flatten(2).transpose(1, 2) if axis == 1 else tensor.flatten(1, 2)
    return tensor.unsqueeze(1) if tensor.dim() == 2 else tensor


def fits(mask: Tensor | None, rows: Tensor) -> TypeGuard[Tensor]:
    """Whether ``mask`` says of ``rows`` ``[B, R, ...]`` which are real: it is ``[B, R]``, and there is one. A mask of
    another shape belongs to other rows, those of tokens where these are an image's."""
    return mask is not None and mask.shape == rows.shape[:2]


def real_rows(rows: Tensor, mask: Tensor | None) -> Tensor:
    """``[N, ...]``: those of ``rows`` ``[B, R, ...]`` where ``mask`` is non-zero; all where it does not fit."""
    if fits(mask, rows):
        return rows[mask.to(rows.device, torch.bool)]
    return rows.flatten(0, 1)


def features_of(tensor: Tensor, consumer: nn.Module, view: str) -> Tensor:
    """``[B, R, F]`` features of a consumer's input: patches of a convolution (exact), or its pixels (shared taps)."""
    if not isinstance(consumer, nn.Conv2d) or view == "shared":
        return rows_of(tensor, feature_axis(consumer))
    conv: Any = consumer
    patches = torch.nn.functional.unfold(tensor, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
    return patches.transpose(1, 2)
