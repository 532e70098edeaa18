"""Short forward passes from the middle of a model to its outputs, for measuring sensitivities without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.data.batches import Batch
from optimum_grail.data.portion import Portion
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.layout import Layout
from optimum_grail.streams.calls import Call, on_device
from optimum_grail.streams.capture import Order, order_of
from optimum_grail.streams.hooks import as_put_out, first, hooked, note_parts, passing, patched_forward
from optimum_grail.streams.language_head import LanguageHead, short
from optimum_grail.streams.outputs import Outlet, Outputs

UNCHANGED = 1e-4
"""Loss that rounding alone may cause."""


@dataclass(frozen=True)
class Tail:
    """The model's outputs as a function of one stack's last hidden state, all other stacks staying dense.

    Args:
        model: the model.
        outlet: where its outputs are looked at.
        stacks: stack name to the paths of its blocks.
        order: how they follow each other.
        batches: the few batches that sensitivities are measured on, this process's of them.
        masks: ``[B, T]`` masks of real rows per batch, or ``None``.
        reference: dense outputs per batch.
        last: dense output of each stack's last block, per batch.
    """

    model: nn.Module
    outlet: Outlet
    stacks: Mapping[str, Sequence[str]]
    order: Order
    batches: Portion
    masks: Sequence[Tensor | None]
    reference: list[Outputs]
    last: Mapping[str, list[Tensor]]

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, layout: Layout, batches: Sequence[Batch], order: Order | None = None) -> Tail:
        """Run the dense model over ``batches`` and keep what later comparisons need.

        Args:
            model: the dense model, in eval mode.
            layout: its stacks.
            batches: a few; losses are means over those of all processes.
            order: of the stacks, if it is known already.

        Raises:
            ArchitectureError: the outputs depend on more than what leaves the last blocks; or as :func:`order_of`.
        """
        stacks, portion = layout.blocks, Portion.of(batches)
        order = order or order_of(model, stacks, portion.sample)
        last: dict[str, list[Tensor]] = {name: [] for name in stacks}

        def keeper(name: str) -> Callable[..., None]:
            """A hook that keeps what leaves the stack ``name``."""

            def hook(module: nn.Module, args: object, output: Any) -> None:
                """Keep a clone: later steps may change it in place."""
                note_parts(module, output)
                last[name].append(first(output).clone())

            return hook

        sample = short(on_device(model, portion.sample))
        outlet = Outlet(model, LanguageHead.of(model, sample, [path for paths in stacks.values() for path in paths]))
        with hooked(after=[(model.get_submodule(paths[-1]), keeper(name)) for name, paths in stacks.items()]):
            reference = [outlet.outputs(on_device(model, batch)) for batch in portion]
        masks = [batch.inputs.get(layout.mask) if layout.mask else None for batch in portion]
        tail = cls(model, outlet, stacks, order, portion, masks, reference, last)
        if len(portion):
            tail._check()
        return tail

    def _check(self) -> None:
        """See on one batch that the outputs follow from what leaves the last blocks."""
        ended, reference = self._finish(0, {}), self.reference[0]
        if ended.shapes != reference.shapes or self.outlet.loss(ended, reference, self.masks[0])[0] > UNCHANGED:
            raise ArchitectureError(
                f"The outputs of {type(self.model).__name__} depend on more than what leaves its last blocks, so "
                "sensitivities cannot be measured. Use --allocation uniform."
            )

    @torch.no_grad()
    def damage(self, stack: str, later: Sequence[tuple[str, Sequence[Call]]], inputs: Sequence[Tensor]) -> float:
        """Mean loss against the dense outputs when ``stack`` runs from ``inputs`` through the blocks ``later``.

        Where other stacks are fed by this one, they and the blocks before ``later`` run as they are in the model.
        """
        if stack in self.order.feeding:
            before = self.stacks[stack][: len(self.stacks[stack]) - len(later)][-1:]
            return self._mean(len(inputs), lambda index: self._whole(index, dict.fromkeys(before, inputs[index])))

        def outputs(index: int) -> Outputs:
            """Of one batch."""
            hidden = inputs[index]
            for path, calls in later:
                hidden = calls[index].run(self.model.get_submodule(path), hidden.clone())
            return self._finish(index, {stack: hidden})

        return self._mean(len(inputs), outputs)

    @torch.no_grad()
    def loss(self, left: Mapping[str, Sequence[Tensor]]) -> float:
        """Mean loss against the dense outputs when the stacks named in ``left`` leave these hidden states behind, one
        per batch, and all others the dense ones."""
        return self._mean(len(self.batches), lambda index: self._finish(index, {n: s[index] for n, s in left.items()}))

    def _mean(self, count: int, outputs: Callable[[int], Outputs]) -> float:
        total = weight = 0.0
        for index in range(count):
            loss, rows = self.outlet.loss(outputs(index), self.reference[index], self.masks[index])
            total += loss * rows
            weight += rows
        total, weight = self.batches.ranks.total("losses against the dense model", total, weight)
        return total / max(weight, 1.0)

    def _finish(self, index: int, left: Mapping[str, Tensor]) -> Outputs:
        states = {name: left.get(name, self.last[name][index]) for name in self.stacks}
        with leaving(self.model, self.stacks, states):
            return self.outlet.outputs(on_device(self.model, self.batches[index]))

    def _whole(self, index: int, constants: Mapping[str, Tensor]) -> Outputs:
        """The model as it is, but for blocks that put out something given."""
        with patched_forward(
            self.model, {path: _constant(self.model, path, value) for path, value in constants.items()}
        ):
            return self.outlet.outputs(on_device(self.model, self.batches[index]))


def _constant(model: nn.Module, path: str, value: Tensor) -> Callable[..., Any]:
    """A forward for the block at ``path`` that always returns ``value``."""
    block = model.get_submodule(path)
    return lambda *args, **kwargs: as_put_out(block, value.clone())


@contextmanager
def leaving(model: nn.Module, stacks: Mapping[str, Sequence[str]], hidden: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with its blocks passed by: whatever goes in, ``hidden`` leaves each stack's last block.

    Args:
        model: the model.
        stacks: stack name to the paths of its blocks.
        hidden: by stack name.
    """

    replacements: dict[str, Callable[..., Any]] = {}
    for name, paths in stacks.items():
        replacements |= {path: passing(model.get_submodule(path)) for path in paths}
        replacements[paths[-1]] = _constant(model, paths[-1], hidden[name])
    with patched_forward(model, replacements):
        yield
