"""The passage of a group: the part of a block from its producers to its consumer, seen with changes of the producers.

Nothing is written: a change ``P`` adds ``x Pᵀ`` to what a producer makes of its input ``x``, by a hook.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup, Port
from optimum_grail.core.producers import Changes, Rows
from optimum_grail.core.products import Convolution, Product
from optimum_grail.data.portion import draws
from optimum_grail.errors import StatisticsError
from optimum_grail.models.products import products_of, weight_of, with_ones
from optimum_grail.streams.blocks import BlockRun
from optimum_grail.streams.collect import drift_of, halves
from optimum_grail.streams.gathering import joined_rows
from optimum_grail.streams.hooks import Hooks, Reached, given, hooked
from optimum_grail.streams.probe import Probe, Record, Wanted, fits, rows_of, unrolled


@dataclass(frozen=True)
class Passage:
    """The passage of one compressed group on the student's stream.

    Args:
        model: the student.
        run: of the block; its dense side still has the group's records.
        group: as it is now.
        ports: of the producers that make something of an input.
        produce: how their outputs follow from their weights.
        consume: the same of the consumer.
        wanted: what is compared with the dense side.
        scale: by what the consumer's outputs are multiplied on their way to the stream, or ``None``.
        most: rows, or images for convolutions, that are looked at.
        seed: of their choice.
    """

    model: nn.Module
    run: BlockRun
    group: ChannelGroup
    ports: Sequence[Port]
    produce: Sequence[Product]
    consume: Product
    wanted: Wanted
    scale: Tensor | None
    most: int
    seed: int

    @classmethod
    def of(
        cls, model: nn.Module, run: BlockRun, group: ChannelGroup, wanted: Wanted, scale: Tensor | None, most: int
    ) -> Passage | None:
        """The passage of a group, ``None`` where a unit's way through it is not by itself: attention mixes rows, and
        a layer between producers and consumer may be none that can be followed."""
        found = products_of(model, group)
        if found is None or group.kind == "heads":
            return None
        ports, produce, consume = found
        return cls(model, run, group, ports, produce, consume, wanted, scale, most, zlib.crc32(group.name.encode()))

    @property
    def consumer(self) -> nn.Module:
        """The consumer."""
        return self.model.get_submodule(self.group.consumer.module)

    @cached_property
    def weight(self) -> Tensor:
        """The consumer's, its columns that belong to the group; float32."""
        port = self.group.consumer
        return weight_of(self.consumer).narrow(1, port.offset, self.group.units * port.span).float()

    @contextmanager
    def changed(self, changes: Changes) -> Iterator[None]:
        """Inside, the producers put out what they would with ``changes``."""
        with hooked(after=self._adding(changes)):
            yield

    def look(self, changes: Changes | None) -> tuple[Rows, Rows]:
        """Rows to fit on and rows to judge by, with ``changes`` of the producers' weights; those of all processes."""
        counts = [[int(chosen.masks[side].sum()) for chosen in self._chosen] for side in (0, 1)]
        fit, judge = (_Gathered(sum(each)) for each in counts)
        for index, chosen in enumerate(self._chosen):
            seen = self._through(index, changes)
            for side, part in enumerate((fit, judge)):
                if bool(chosen.masks[side].any()):
                    part.add_(seen.rows(chosen.masks[side], chosen.targets[side], self.whole))
        names, portion = ("rows to fit on", "rows to judge by"), self.run.batches.batches
        both = zip(names, (fit.rows, judge.rows), counts, strict=True)
        first, second = (joined_rows(portion, f"{self.group.name}, {name}", rows, each) for name, rows, each in both)
        return first, second

    @property
    def whole(self) -> bool:
        """Whether samples are looked at as a whole, as convolutions need it."""
        return isinstance(self.consume, Convolution)

    def _adding(self, changes: Changes | None) -> list[tuple[nn.Module, Callable[..., Any]]]:
        changed = zip(self.ports, self.produce, changes or (), strict=False)
        return [(self.model.get_submodule(port.module), _added(port, make, part)) for port, make, part in changed]

    def _through(self, index: int, changes: Changes | None) -> _Seen:
        """One batch's way through the passage, with the derivatives."""
        hidden = self.run.streams.student[index].clone()
        seen = _Seen(self.group, hidden.shape[:-1])
        watching = [
            (self.model.get_submodule(port.module), seen.watching(number, port, product.axis))
            for number, (port, product) in enumerate(zip(self.ports, self.produce, strict=True))
        ]
        after: Hooks = [*self._adding(changes), *watching]
        with torch.enable_grad(), hooked(before=[(self.consumer, seen.enter)], after=after):
            with suppress(Reached), self.run.taken(index):
                self.run.calls[index].run(self.run.block, hidden)
            seen.differentiate(self.consume.axis)
        return seen

    @cached_property
    def _chosen(self) -> list[_Chosen]:
        """What is looked at of every batch."""
        portion = self.run.batches.batches
        probe = Probe(self.run.block, self.run.path, [self.group], replace(self.wanted, features=True), stop_early=True)
        total = sum(batch.size for batch in portion.whole)
        found = []
        for index, call in enumerate(self.run.calls):
            with torch.no_grad(), self.run.taken(index):
                probe.run(call, self.run.streams.student[index])
            student = probe.records[self.group.name]
            target = self._target(student, self.run.recalled(index, self.group.name))
            rows = target.shape[:1] if self.whole else target.shape[:2]
            share = self.most * portion[index].size / (total * rows.numel())
            drawn = torch.rand(rows, generator=draws(self.seed, portion.numbers[index])) < share
            masks = self._masks(index, target, drawn)
            found.append(_Chosen(masks, (target[masks[0]], target[masks[1]])))
        return found

    def _target(self, student: Record, dense: Record) -> Tensor:
        """What the consumer should put out, without its bias: ``[B, R, O]``, or ``[B, O, H, W]``."""
        drift = drift_of(dense, student, self.scale, self.consume.axis)
        features = student.features
        if drift is None or features is None:
            raise StatisticsError(f"The block of {self.group.name!r} did not run its consumer or reach its stream.")
        port = self.group.consumer
        own = features.narrow(self.consume.axis, port.offset, self.group.units * port.span)
        if self.whole:
            output = self.consume(own, self.weight)
            return output + drift.transpose(1, 2).reshape_as(output)
        return self.consume(rows_of(own, -1), self.weight) + drift

    def _masks(self, index: int, target: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the ``drawn`` rows are fitted on, and which are judged by."""
        batch, mask = self.run.batches.batches[index], self.run.batches.masks[index]
        real = mask.cpu().bool() if not self.whole and fits(mask, target) else torch.ones_like(drawn)
        held = torch.full_like(drawn, batch.split == "held")
        if batch.split == "halves":
            held = halves(real[None] if self.whole else real)[1].reshape(drawn.shape)
        return drawn & real & ~held, drawn & real & held


@dataclass(frozen=True)
class _Chosen:
    """Which rows of a batch are fitted on and which are judged by (masks ``[B, R]``, or ``[B]`` of samples as a whole),
    and their targets."""

    masks: tuple[Tensor, Tensor]
    targets: tuple[Tensor, Tensor]


@dataclass
class _Seen:
    """What one run through the passage of ``group`` shows; producers by their position. ``tokens``: batch and sequence
    of the hidden state, see :func:`optimum_grail.streams.probe.unrolled`."""

    group: ChannelGroup
    tokens: Sequence[int]
    inputs: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    derivatives: dict[int, Tensor] = field(default_factory=dict)
    features: Tensor = field(default_factory=lambda: torch.empty(0))

    def watching(self, number: int, port: Port, axis: int) -> Callable[..., Tensor]:
        """A hook that keeps what a producer takes, and makes what it puts out something to differentiate by."""

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            """The same values, the group's strip of them a leaf."""
            shared = next((known for known in self.inputs.values() if known.data_ptr() == args[0].data_ptr()), None)
            entered = with_ones(args[0].detach(), module)
            self.inputs[number] = entered if shared is None or shared.shape != entered.shape else shared
            whole = self.group.units * port.span
            behind = output.shape[axis] - port.offset - whole
            before, strip, after = output.split([port.offset, whole, behind], axis)
            self.outputs[number] = strip.detach().requires_grad_()
            return torch.cat([before, self.outputs[number], after], axis)  # a copy: what follows may write into it

        return hook

    def enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep what enters the consumer, and end the run."""
        self.features = given(args, kwargs)
        raise Reached

    def differentiate(self, axis: int) -> None:
        """Feature ``k`` depends on output ``k`` of the producers only, so one backward pass gives all derivatives."""
        port = self.group.consumer
        self.features = self.features.narrow(axis, port.offset, self.group.units * port.span)
        numbers = sorted(self.outputs)
        leaves = [self.outputs[number] for number in numbers]
        found = torch.autograd.grad(self.features, leaves, torch.ones_like(self.features))
        self.derivatives = dict(zip(numbers, found, strict=True))
        self.features = self.features.detach()

    def rows(self, mask: Tensor, target: Tensor, whole: bool) -> Rows:
        """The rows that ``mask`` names."""

        def chosen(tensor: Tensor) -> Tensor:
            """Those of one tensor, float32."""
            rows = tensor if whole else rows_of(unrolled(tensor, self.tokens), -1)
            return rows[mask.to(tensor.device)].float()

        kept: dict[int, Tensor] = {}
        for number in sorted(self.inputs):
            tensor = self.inputs[number]
            twin = next((kept[other] for other in kept if self.inputs[other] is tensor), None)
            kept[number] = chosen(tensor) if twin is None else twin
        numbers = sorted(kept)
        derivatives = [chosen(self.derivatives[number]) for number in numbers]
        return Rows([kept[number] for number in numbers], derivatives, chosen(self.features), target.float())


def _added(port: Port, product: Product, change: Tensor) -> Callable[..., Tensor]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """What the module puts out with the change."""
        inputs = with_ones(args[0].detach(), module)
        moved = product(inputs, change.to(inputs.dtype))
        output = output.clone()
        output.narrow(product.axis, port.offset, moved.shape[product.axis]).add_(moved)
        return output

    return hook


@dataclass
class _Gathered:
    """Rows of several batches, ``count`` in all, in tensors that are made once: joining them would take as much again.
    Inputs that producers share are kept once."""

    count: int
    rows: Rows = field(default_factory=lambda: Rows((), (), torch.empty(0), torch.empty(0)))
    filled: int = 0

    def add_(self, part: Rows) -> None:
        """Add those of one batch."""
        if not self.filled:
            made = {id(tensor): self._room(tensor) for tensor in part.inputs}
            inputs = [made[id(tensor)] for tensor in part.inputs]
            derivatives = [self._room(tensor) for tensor in part.derivatives]
            self.rows = Rows(inputs, derivatives, self._room(part.features), self._room(part.target))
        whole, end = self.rows, self.filled + len(part.features)
        pairs = [*zip(whole.inputs, part.inputs, strict=True), *zip(whole.derivatives, part.derivatives, strict=True)]
        for room, tensor in (*pairs, (whole.features, part.features), (whole.target, part.target)):
            room[self.filled : end] = tensor
        self.filled = end

    def _room(self, like: Tensor) -> Tensor:
        return like.new_empty(self.count, *like.shape[1:])
