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
from optimum_grail.streams.capture import Call, first, on_device, patched_forward
from optimum_grail.streams.probe import rows_of


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
        batches: the few batches that sensitivities are measured on.
        masks: ``[B, T]`` masks of real rows per batch, or ``None``.
        reference: dense outputs per batch.
        last: dense output of each stack's last block, per batch.
    """

    model: nn.Module
    stacks: Mapping[str, Sequence[str]]
    batches: Sequence[Batch]
    masks: Sequence[Tensor | None]
    reference: list[Outputs]
    last: Mapping[str, list[Tensor]]

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, layout: Layout, batches: Sequence[Batch]) -> Tail:
        """Run the dense model over ``batches`` and keep what later comparisons need."""
        stacks = layout.blocks
        last: dict[str, list[Tensor]] = {name: [] for name in stacks}
        handles = []
        for name, paths in stacks.items():
            keep = last[name]
            handles.append(
                model.get_submodule(paths[-1]).register_forward_hook(
                    lambda module, args, output, keep=keep: keep.append(first(output).clone())
                )
            )
        try:
            reference = [outputs_of(model(**on_device(model, batch))) for batch in batches]
        finally:
            for handle in handles:
                handle.remove()
        names = {stack.spec.mask for stack in layout.stacks}
        mask = next((name for name in names if name), None)
        masks = [batch.inputs.get(mask) if mask else None for batch in batches]
        return cls(model, stacks, batches, masks, reference, last)

    @torch.no_grad()
    def damage(self, stack: str, later: Sequence[tuple[str, Sequence[Call]]], inputs: Sequence[Tensor]) -> float:
        """Mean loss against the dense outputs when ``stack`` runs from ``inputs`` through the blocks ``later``."""
        total = weight = 0.0
        for index, hidden in enumerate(inputs):
            for path, calls in later:
                hidden = calls[index].run(self.model.get_submodule(path), hidden.clone())
            outputs = self._finish(stack, index, hidden)
            loss, rows = _loss(outputs, self.reference[index], self.masks[index])
            total += loss * rows
            weight += rows
        return total / max(weight, 1.0)

    def _finish(self, stack: str, index: int, hidden: Tensor) -> Outputs:
        states = {name: hidden if name == stack else self.last[name][index] for name in self.stacks}
        with leaving(self.model, self.stacks, states):
            return outputs_of(self.model(**on_device(self.model, self.batches[index])))


@contextmanager
def leaving(model: nn.Module, stacks: Mapping[str, Sequence[str]], hidden: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with its blocks passed by: whatever goes in, ``hidden`` leaves each stack's last block.

    Args:
        model: the model.
        stacks: stack name to the paths of its blocks.
        hidden: by stack name.
    """

    def constant(value: Tensor) -> Callable[..., Tensor]:
        """A forward that always returns ``value``."""
        return lambda *args, **kwargs: value.clone()

    def identity(*args: Any, **kwargs: Any) -> Tensor:
        """A forward that returns its hidden state."""
        return args[0] if args else next(iter(kwargs.values()))

    replacements: dict[str, Callable[..., Any]] = {}
    for name, paths in stacks.items():
        replacements |= dict.fromkeys(paths, identity)
        replacements[paths[-1]] = constant(hidden[name])
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


def _loss(outputs: Outputs, reference: Outputs, mask: Tensor | None) -> tuple[float, float]:
    """KL divergence from the dense logits per row, or relative squared error of the embeddings; and the rows."""
    if outputs.logits is not None and reference.logits is not None:
        log_p = reference.logits.log_softmax(-1)
        rows = (log_p.exp() * (log_p - outputs.logits.log_softmax(-1))).sum(-1)
        rows = (
            rows[mask.to(rows.device, torch.bool)] if mask is not None and rows.shape == mask.shape else rows.flatten()
        )
        return float(rows.mean()), float(rows.numel())
    total = 0.0
    for ours, dense in zip(outputs.embeddings, reference.embeddings, strict=True):
        ours, dense = _real(ours, mask), _real(dense, mask)
        spread = dense - dense.mean(0) if len(dense) > 1 else dense
        total += float((ours - dense).square().sum() / spread.square().sum().clamp(min=1e-30))
    return total, float(len(reference.embeddings[0]))


def _real(states: Tensor, mask: Tensor | None) -> Tensor:
    """``[N, C]`` real rows of embeddings ``[B, C]`` or hidden states ``[B, T, C]`` or ``[B, C, H, W]``."""
    rows = rows_of(states)
    if mask is not None and states.dim() == 3 and rows.shape[:2] == mask.shape:
        return rows[mask.to(rows.device, torch.bool)]
    return rows.flatten(0, 1)
