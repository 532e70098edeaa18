"""One backward sweep through a model, block by block from the last, each run again from the state that entered it.

No graph is larger than one block's, and the time grows with the number of blocks alone. Where stacks feed each other,
what leaves one reaches the outputs through the other's blocks: such a model is differentiated as a whole, batch by
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.data.portion import Portion, draws
from optimum_grail.models.layout import Layout
from optimum_grail.models.residence import resident
from optimum_grail.streams.blocks import advance
from optimum_grail.streams.calls import Call, on_device
from optimum_grail.streams.capture import Captured, Order, capture
from optimum_grail.streams.gradients import frozen
from optimum_grail.streams.hooks import given, hooked
from optimum_grail.streams.memory import release
from optimum_grail.streams.outputs import Outputs, Slopes, pull
from optimum_grail.streams.probe import unrolled
from optimum_grail.streams.states import States
from optimum_grail.streams.tail import Tail, leaving


@dataclass(frozen=True)
class Slope:
    """Of one batch what a backward pass shows at a group's consumer.

    Args:
        features: its input, as the module takes it.
        gradient: by its output, of the form that the module gives it.
    """

    features: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class Backward:
    """The sweep.

    Args:
        model: the dense model, in eval mode; unchanged.
        layout: its stacks and groups.
        batches: a few calibration batches, this process's of them.
        order: how the stacks follow each other.
        seed: of the labels and directions that gradients are taken along.
        offload: keep hidden states in files of a temporary folder instead of in memory.
    """

    model: nn.Module
    layout: Layout
    batches: Portion
    order: Order
    seed: int
    offload: bool = False
    scales: list[float] = field(default_factory=list)

    @property
    def scale(self) -> float:
        """What sums over all batches, those of every process, of squared gradients are to be divided by; known once the
        sweep has begun."""
        return max(sum(self.scales), 1e-300)

    def run(self) -> Iterator[tuple[ChannelGroup, list[Slope]]]:
        """Every group with its slopes, one per batch; in no particular order.

        Raises:
            ArchitectureError: the outputs depend on more than what leaves the last blocks.
        """
        with frozen(self.model):
            yield from self._at_once() if self.order.fed else self._by_blocks()

    @cached_property
    def _tail(self) -> Tail:
        """Finds out with one sample where to look at the outputs, and that they depend on the last blocks alone."""
        return Tail.of(self.model, self.layout, [self.batches.sample], self.order)

    def _starts(self, outputs: Callable[[int], Outputs]) -> Iterator[tuple[int, Slopes]]:
        """Where the backward pass of every batch begins."""
        for index, batch in enumerate(self.batches):
            draw = draws(self.seed, self.batches.numbers[index])
            mask = batch.inputs.get(self.layout.mask) if self.layout.mask else None
            with torch.enable_grad():
                start = self._tail.outlet.slopes(outputs(index), mask, draw)
            self.scales.append(start.scale)
            yield index, start
        self.scales[:] = self.batches.ranks.total("the rows that gradients are taken of", sum(self.scales))

    def _by_blocks(self) -> Iterator[tuple[ChannelGroup, list[Slope]]]:
        captured = capture(self.model, self.layout.blocks, self.batches, offload=self.offload, order=self.order)
        entered = {path: states for seen in captured.values() for path, states in self._forward(seen)}
        release()
        pulled = self._at_the_end({name: seen.hidden for name, seen in captured.items()})
        release()
        for stack in self.layout.stacks:
            for path in reversed(stack.blocks):
                calls = captured[stack.name].calls.pop(path)
                with resident(self.model, path):
                    yield from self._block(path, calls, entered.pop(path), pulled[stack.name])
                release()  # the little that is kept of a block would hold the rest of its memory back

    def _forward(self, seen: Captured) -> Iterator[tuple[str, States]]:
        """Move a stack's states to its end; what enters every block."""
        for path, calls in seen.calls.items():
            yield path, seen.hidden.copy()
            with torch.no_grad(), resident(self.model, path) as block:
                advance(block, calls, seen.hidden)

    def _at_the_end(self, left: Mapping[str, States]) -> dict[str, list[Tensor]]:
        """Gradients by what leaves every stack, one per batch."""
        sources: dict[str, Tensor] = {}

        def outputs(index: int) -> Outputs:
            """Of one batch, as a function of what leaves the stacks."""
            sources.update({name: states[index].detach().requires_grad_() for name, states in left.items()})
            with leaving(self.model, self.layout.blocks, sources):
                return self._tail.outlet.outputs(on_device(self.model, self.batches[index]))

        pulled: dict[str, list[Tensor]] = {name: [] for name in left}
        for _, start in self._starts(outputs):
            for name, gradient in zip(sources, pull(start, list(sources.values())), strict=True):
                pulled[name].append(gradient)
        return pulled

    def _block(
        self, path: str, calls: Sequence[Call], entered: States, pulled: list[Tensor]
    ) -> Iterator[tuple[ChannelGroup, list[Slope]]]:
        """Take ``pulled``, the gradients by what leaves a block, to what enters it."""
        groups = [group for group in self.layout.of_block(path) if group.units]
        slopes: dict[str, list[Slope]] = {group.name: [] for group in groups}
        for index, call in enumerate(calls):
            seen: dict[str, tuple[Tensor, Tensor]] = {}
            hidden = entered[index].detach().requires_grad_()
            with hooked(after=self._keepers(groups, seen)), torch.enable_grad():
                start = Slopes((call.run(self.model.get_submodule(path), hidden.clone()),), (pulled[index],), 1.0)
            *gradients, pulled[index] = pull(start, [*(output for _, output in seen.values()), hidden])
            for (name, (features, _)), gradient in zip(seen.items(), gradients, strict=True):
                tokens = hidden.shape[:-1]
                slopes[name].append(Slope(unrolled(features, tokens), unrolled(gradient, tokens)))
        yield from ((group, slopes.pop(group.name)) for group in groups)

    def _at_once(self) -> Iterator[tuple[ChannelGroup, list[Slope]]]:
        groups = [group for group in self.layout.groups if group.units]
        slopes: dict[str, list[Slope]] = {group.name: [] for group in groups}
        seen: dict[str, tuple[Tensor, Tensor]] = {}

        def outputs(index: int) -> Outputs:
            """Of one batch, as a function of what all consumers put out."""
            seen.clear()
            with hooked(after=self._keepers(groups, seen)):
                return self._tail.outlet.outputs(on_device(self.model, self.batches[index]))

        for _, start in self._starts(outputs):
            gradients = pull(start, [output for _, output in seen.values()])
            for (name, (features, _)), gradient in zip(seen.items(), gradients, strict=True):
                slopes[name].append(Slope(features, gradient))
        yield from ((group, slopes.pop(group.name)) for group in groups)

    def _keepers(
        self, groups: Sequence[ChannelGroup], seen: dict[str, tuple[Tensor, Tensor]]
    ) -> list[tuple[nn.Module, Callable[..., Any]]]:
        return [(self.model.get_submodule(group.consumer.module), _keeper(seen, group.name)) for group in groups]


def _keeper(seen: dict[str, tuple[Tensor, Tensor]], name: str) -> Callable[..., Tensor]:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Note the features, and replace the output by one that gradients can be taken of."""
        leaf = output + torch.zeros((), dtype=output.dtype, device=output.device, requires_grad=True)
        seen[name] = given(args, {}).detach(), leaf
        return leaf.clone()  # what follows may add to it in place

    return hook
