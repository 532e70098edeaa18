"""Short forward passes from the middle of a model to its outputs, for measuring sensitivities without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.data.batches import Batch
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.layout import Layout
from optimum_grail.streams.calls import Call, on_device
from optimum_grail.streams.capture import Order, order_of
from optimum_grail.streams.hooks import first, given, hooked, patched_forward
from optimum_grail.streams.probe import real_rows, rows_of

UNCHANGED = 1e-4
"""Loss that rounding alone may cause."""


@dataclass(frozen=True)
class Outputs:
    """What the damage of one batch is measured on: log-probabilities of a head, or embeddings."""

    logits: Tensor | None
    embeddings: tuple[Tensor, ...]


@dataclass(frozen=True)
class Tail:
    """The model's outputs as a function of one stack's last hidden state, all other stacks staying dense.

    Args:
        model: the model.
        stacks: stack name to the paths of its blocks.
        order: how they follow each other.
        batches: the few batches that sensitivities are measured on.
        masks: ``[B, T]`` masks of real rows per batch, or ``None``.
        reference: dense outputs per batch.
        last: dense output of each stack's last block, per batch.
    """

    model: nn.Module
    stacks: Mapping[str, Sequence[str]]
    order: Order
    batches: Sequence[Batch]
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
            batches: a few.
            order: of the stacks, if it is known already.

        Raises:
            ArchitectureError: the outputs depend on more than what leaves the last blocks; or as :func:`order_of`.
        """
        stacks = layout.blocks
        order = order or order_of(model, stacks, batches[0])
        last: dict[str, list[Tensor]] = {name: [] for name in stacks}

        def keeper(name: str) -> Callable[..., None]:
            """A hook that keeps what leaves the stack ``name``."""
            return lambda module, args, output: last[name].append(first(output).clone())

        with hooked(after=[(model.get_submodule(paths[-1]), keeper(name)) for name, paths in stacks.items()]):
            reference = [outputs_of(model(**on_device(model, batch))) for batch in batches]
        masks = [batch.inputs.get(layout.mask) if layout.mask else None for batch in batches]
        tail = cls(model, stacks, order, batches, masks, reference, last)
        if loss_against(tail._finish(0, {}), reference[0], masks[0])[0] > UNCHANGED:
            raise ArchitectureError(
                f"The outputs of {type(model).__name__} depend on more than what leaves its last blocks, so "
                "sensitivities cannot be measured. Use --allocation uniform."
            )
        return tail

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
            loss, rows = loss_against(outputs(index), self.reference[index], self.masks[index])
            total += loss * rows
            weight += rows
        return total / max(weight, 1.0)

    def _finish(self, index: int, left: Mapping[str, Tensor]) -> Outputs:
        states = {name: left.get(name, self.last[name][index]) for name in self.stacks}
        with leaving(self.model, self.stacks, states):
            return outputs_of(self.model(**on_device(self.model, self.batches[index])))

    def _whole(self, index: int, constants: Mapping[str, Tensor]) -> Outputs:
        """The model as it is, but for blocks that put out something given."""
        with patched_forward(self.model, {path: _constant(value) for path, value in constants.items()}):
            return outputs_of(self.model(**on_device(self.model, self.batches[index])))


def _constant(value: Tensor) -> Callable[..., Tensor]:
    """A forward that always returns ``value``."""
    return lambda *args, **kwargs: value.clone()


@contextmanager
def leaving(model: nn.Module, stacks: Mapping[str, Sequence[str]], hidden: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with its blocks passed by: whatever goes in, ``hidden`` leaves each stack's last block.

    Args:
        model: the model.
        stacks: stack name to the paths of its blocks.
        hidden: by stack name.
    """

    def identity(*args: Any, **kwargs: Any) -> Tensor:
        """A forward that returns its hidden state."""
        return given(args, kwargs)

    replacements: dict[str, Callable[..., Any]] = {}
    for name, paths in stacks.items():
        replacements |= dict.fromkeys(paths, identity)
        replacements[paths[-1]] = _constant(hidden[name])
    with patched_forward(model, replacements):
        yield


def outputs_of(output: Any) -> Outputs:
    """Pick what to compare: logits of a head, else image and text embeddings, else the last hidden state."""
    if isinstance(output, Tensor):
        return Outputs(output.float(), ())
    found: Mapping[str, Any] = output if isinstance(output, Mapping) else {}
    logits = found.get("logits")
    if isinstance(logits, Tensor):
        return Outputs(logits.float(), ())
    for names in (("image_embeds", "text_embeds"), ("last_hidden_state",)):
        tensors = tuple(found[name].float() for name in names if isinstance(found.get(name), Tensor))
        if tensors:
            return Outputs(None, tensors)
    raise ArchitectureError(
        "The model's output has neither logits nor embeddings nor a last hidden state, so sensitivities cannot be "
        "measured. Use --allocation uniform."
    )


def divergences(dense: Tensor, ours: Tensor, mask: Tensor | None) -> Tensor:
    """``KL(dense ‖ ours)`` of every real row of logits, nats, ``[N]``.

    Args:
        dense: float32, ``[B, C]`` or ``[B, T, C]``.
        ours: of the same shape.
        mask: ``[B, T]``, non-zero on real tokens; ``None``: all are.
    """
    log_p = dense.log_softmax(-1)
    rows = (log_p.exp() * (log_p - ours.log_softmax(-1))).sum(-1)
    return real_rows(rows.reshape(len(rows), -1), mask)


def loss_against(outputs: Outputs, reference: Outputs, mask: Tensor | None) -> tuple[float, float]:
    """KL divergence from the dense logits per row, or relative squared error of the embeddings; and the rows.

    Args:
        outputs: of the student.
        reference: the dense ones.
        mask: ``[B, T]``, non-zero on real rows; ``None``: all are.
    """
    if outputs.logits is not None and reference.logits is not None:
        rows = divergences(reference.logits, outputs.logits, mask)
        return float(rows.mean()), float(rows.numel())
    total = 0.0
    for ours, dense in zip(outputs.embeddings, reference.embeddings, strict=True):
        marked = mask if dense.dim() == 3 else None  # of a vector or a feature map no row is padding
        ours, dense = real_rows(rows_of(ours), marked), real_rows(rows_of(dense), marked)
        spread = dense - dense.mean(0) if len(dense) > 1 else dense
        total += float((ours - dense).square().sum() / spread.square().sum().clamp(min=1e-30))
    return total, float(len(reference.embeddings[0]))
