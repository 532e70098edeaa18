"""Hooks that read what a group's statistics need out of one run of a block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup, StreamFunction
from optimum_grail.models.matrix import feature_axis
from optimum_grail.streams.capture import Call, _Reached, first


@dataclass
class Record:
    """What one run of a block showed of one group; every tensor is a clone, since residual additions happen in place.

    Args:
        features: input of the consumer.
        output: output of the consumer.
        stream: residual sum behind the consumer.
    """

    features: Tensor | None = None
    output: Tensor | None = None
    stream: Tensor | None = None


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

    def run(self, call: Call, hidden: Tensor) -> Tensor | None:
        """Run the block on ``hidden`` and fill :attr:`records`; returns the block's output."""
        self.records = {group.name: Record() for group in self.groups}
        submodules: dict[str, dict[str, Tensor]] = {group.name: {} for group in self.groups}
        self._missing = 0
        whole = [group for group in self.groups if self.wanted.stream and self._after(group)]
        handles = [handle for group in self.groups for handle in self._attach(group, submodules[group.name])]
        output: Tensor | None = None
        try:
            output = call.run(self.block, hidden.clone())
        except _Reached:
            pass
        finally:
            for handle in handles:
                handle.remove()
        if output is not None:
            for group in whole:
                self.records[group.name].stream = self._late(group, hidden, output, submodules[group.name])
        return output

    def _after(self, group: ChannelGroup) -> bool:
        return group.stream == "@block" or isinstance(group.stream, StreamFunction)

    def _late(self, group: ChannelGroup, hidden: Tensor, output: Tensor, seen: Mapping[str, Tensor]) -> Tensor:
        if isinstance(group.stream, StreamFunction):
            return group.stream.function(self.block, hidden, seen)
        return output

    def _local(self, path: str) -> nn.Module:
        return self.block.get_submodule(path.removeprefix(self.path + "."))

    def _done(self) -> None:
        self._missing -= 1
        if self._missing == 0 and self.stop_early:
            raise _Reached

    def _attach(self, group: ChannelGroup, seen: dict[str, Tensor]) -> list[Any]:
        record = self.records[group.name]
        consumer = self._local(group.consumer.module)
        handles = []
        if self.wanted.features:
            handles.append(self._before(consumer, record, "features"))
        if self.wanted.output or (self.wanted.stream and group.stream is None):
            handles.append(self._behind(consumer, record, "output"))
        if self.wanted.stream and isinstance(group.stream, StreamFunction):
            self._missing += 1  # known only when the block has run
            for path in group.stream.records:
                handles.append(self.block.get_submodule(path).register_forward_hook(_keeper(seen, path)))
        elif self.wanted.stream and group.stream == "@block":
            self._missing += 1
        elif self.wanted.stream and isinstance(group.stream, str):
            path, _, side = group.stream.partition(":")
            module = self.block.get_submodule(path)
            handles.append((self._behind if side == "output" else self._before)(module, record, "stream"))
        return handles

    def _before(self, module: nn.Module, record: Record, name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            """Keep a clone of the input."""
            setattr(record, name, (args[0] if args else next(iter(kwargs.values()))).clone())
            self._done()

        self._missing += 1
        return module.register_forward_pre_hook(hook, with_kwargs=True)

    def _behind(self, module: nn.Module, record: Record, name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            """Keep a clone of the output."""
            setattr(record, name, first(output).clone())
            self._done()

        self._missing += 1
        return module.register_forward_hook(hook)


def _keeper(seen: dict[str, Tensor], path: str) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Keep a clone of the output by its path."""
        seen[path] = first(output).clone()

    return hook


def rows_of(tensor: Tensor, axis: int = 1) -> Tensor:
    """``[B, R, C]`` view of a hidden state: tokens as they are, feature maps as ``H·W`` rows, vectors ``[B, C]`` as one
    row each. Feature maps are ``[B, C, H, W]``, or ``[B, H, W, C]`` with ``axis=-1``."""
    if tensor.dim() == 4:
        return tensor.flatten(2).transpose(1, 2) if axis == 1 else tensor.flatten(1, 2)
    return tensor.unsqueeze(1) if tensor.dim() == 2 else tensor


def features_of(tensor: Tensor, consumer: nn.Module, view: str) -> Tensor:
    """``[B, R, F]`` features of a consumer's input: patches of a convolution (exact), or its pixels (shared taps)."""
    if not isinstance(consumer, nn.Conv2d) or view == "shared":
        return rows_of(tensor, feature_axis(consumer))
    conv: Any = consumer
    patches = torch.nn.functional.unfold(tensor, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
    return patches.transpose(1, 2)
