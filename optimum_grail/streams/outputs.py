"""What a model puts out, as far as damage is measured on it, and how far two models' outputs are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.errors import ArchitectureError
from optimum_grail.streams.language_head import LanguageHead
from optimum_grail.streams.probe import real_rows, rows_of


@dataclass(frozen=True)
class Outputs:
    """What the damage of one batch is measured on; one of three.

    Args:
        logits: of a classifier, float32 ``[B, C]`` or ``[B, T, C]``.
        embeddings: float32, of models without logits.
        entering: of a language model, what enters its head, ``[B, T, features]``: a fraction of its logits.
    """

    logits: Tensor | None
    embeddings: tuple[Tensor, ...] = ()
    entering: Tensor | None = None

    @property
    def shapes(self) -> list[torch.Size]:
        """Of everything that is there, in order."""
        return [tensor.shape for tensor in (self.logits, *self.embeddings, self.entering) if tensor is not None]


@dataclass(frozen=True)
class Outlet:
    """Where a model's outputs are looked at.

    Args:
        model: the model.
        head: that of a language model, whose logits are made slice by slice.
    """

    model: nn.Module
    head: LanguageHead | None

    def outputs(self, inputs: Mapping[str, Any]) -> Outputs:
        """Of one pass.

        Raises:
            ArchitectureError: there is nothing to compare.
        """
        if self.head is not None:
            return Outputs(None, entering=self.head.entering(inputs))
        return outputs_of(self.model(**inputs))

    def loss(self, ours: Outputs, dense: Outputs, mask: Tensor | None) -> tuple[float, float]:
        """KL divergence from the dense logits per row, or relative squared error of the embeddings; and the rows.

        Args:
            ours: of the student.
            dense: of the dense model.
            mask: ``[B, T]``, non-zero on real rows; ``None``: all are.
        """
        if self.head is None or ours.entering is None or dense.entering is None:
            return loss_against(ours, dense, mask)
        rows = real_rows(ours.entering, mask), real_rows(dense.entering, mask)
        total = torch.zeros((), dtype=torch.float64)
        for found, wanted in self.head.slices(*rows):
            parts = divergences(self.head.logits(wanted), self.head.logits(found), None)
            total += parts.sum(dtype=torch.float64).cpu()
        return float(total) / max(len(rows[0]), 1), float(len(rows[0]))

    def slopes(self, outputs: Outputs, mask: Tensor | None, draw: torch.Generator) -> Slopes:
        """Where a backward pass begins whose squared gradients estimate the curvature of :meth:`loss`.

        Of logits the curvature is the Fisher information, estimated at labels drawn from the model's own predictions;
        of embeddings the Gauss-Newton matrix, estimated along random directions.

        Args:
            outputs: of the dense model, with their graph.
            mask: ``[B, T]``, non-zero on real rows; ``None``: all are.
            draw: of labels and directions.
        """
        if self.head is not None and outputs.entering is not None:
            return self._head_slopes(self.head, outputs.entering, mask, draw)
        if outputs.logits is not None:
            return _label_slopes(outputs.logits, mask, draw)
        return _direction_slopes(outputs.embeddings, mask, draw)

    @staticmethod
    def _head_slopes(head: LanguageHead, entering: Tensor, mask: Tensor | None, draw: torch.Generator) -> Slopes:
        held = entering.detach().requires_grad_()
        rows = real_rows(held, mask)
        pulled = head.pull(rows.detach(), lambda logits, _: _likelihood(logits, draw).sum())
        (gradient,) = torch.autograd.grad(rows, held, pulled)
        return Slopes((entering,), (gradient,), 2.0 * len(rows))


@dataclass(frozen=True)
class Slopes:
    """Where a backward pass begins.

    Args:
        outputs: tensors with a graph.
        gradients: by each of them.
        scale: what the squares of gradients are to be divided by.
    """

    outputs: Sequence[Tensor]
    gradients: Sequence[Tensor]
    scale: float


def pull(start: Slopes, sources: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients by ``sources``; zero where the outputs do not depend on them."""
    return torch.autograd.grad(start.outputs, sources, start.gradients, allow_unused=True, materialize_grads=True)


def _likelihood(logits: Tensor, draw: torch.Generator) -> Tensor:
    """Log-likelihood ``[N]`` of labels drawn from ``logits`` ``[N, C]`` themselves."""
    summed = logits.detach().softmax(-1).cumsum(-1)  # torch.multinomial takes several times as long on a CPU
    points = torch.rand(len(logits), 1, generator=draw).to(logits.device) * summed[:, -1:]
    labels = torch.searchsorted(summed, points).clamp(max=logits.shape[-1] - 1)
    return logits.log_softmax(-1).gather(-1, labels).squeeze(-1)


def _label_slopes(logits: Tensor, mask: Tensor | None, draw: torch.Generator) -> Slopes:
    rows = _likelihood(logits.flatten(0, -2), draw).reshape(len(logits), -1)
    picked = real_rows(rows, mask)
    return Slopes((picked,), (torch.ones_like(picked),), 2.0 * len(picked))


def _direction_slopes(embeddings: Sequence[Tensor], mask: Tensor | None, draw: torch.Generator) -> Slopes:
    gradients = []
    kept = [real_rows(rows_of(states), mask if states.dim() == 3 else None) for states in embeddings]
    for rows in kept:
        noise = torch.randn(rows.shape, generator=draw).to(rows)
        gradients.append(noise / _spread(rows.detach()).square().sum().clamp(min=1e-30).sqrt())
    return Slopes(kept, gradients, 1.0)


def _spread(rows: Tensor) -> Tensor:
    return rows - rows.mean(0) if len(rows) > 1 else rows


def outputs_of(output: Any) -> Outputs:
    """Pick what to compare: logits, else image and text embeddings, else the last hidden state.

    Raises:
        ArchitectureError: there is none of them.
    """
    if isinstance(output, Tensor):
        return Outputs(output.float())
    found: Mapping[str, Any] = output if isinstance(output, Mapping) else {}
    logits = found.get("logits")
    if isinstance(logits, Tensor):
        return Outputs(logits.float())
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


def loss_against(ours: Outputs, dense: Outputs, mask: Tensor | None) -> tuple[float, float]:
    """:meth:`Outlet.loss` of outputs that are no language model's."""
    if ours.logits is not None and dense.logits is not None:
        rows = divergences(dense.logits, ours.logits, mask)
        return float(rows.mean()), float(rows.numel())
    total = 0.0
    for states, wanted in zip(ours.embeddings, dense.embeddings, strict=True):
        marked = mask if wanted.dim() == 3 else None  # of a vector or a feature map no row is padding
        states, wanted = real_rows(rows_of(states), marked), real_rows(rows_of(wanted), marked)
        total += float((states - wanted).square().sum() / _spread(wanted).square().sum().clamp(min=1e-30))
    return total, float(len(dense.embeddings[0]))
