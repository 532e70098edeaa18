"""Error curves whose scale is estimated from gradients: what a small error of a consumer's output does to the model's,
to second order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.problem import GroupProblem
from optimum_grail.data.batches import Batch
from optimum_grail.models.layout import Layout
from optimum_grail.signals import SIGNALS, Dense, Tensors, Visit, Work
from optimum_grail.signals._curves import CurveSignal, Thinned
from optimum_grail.streams.calls import on_device
from optimum_grail.streams.gradients import frozen
from optimum_grail.streams.hooks import hooked
from optimum_grail.streams.probe import real_rows, rows_of
from optimum_grail.streams.tail import Outputs, outputs_of

PASSES = 3
"""Forward passes that a forward and a backward pass cost."""
_CURVATURE = "/curvature"


@SIGNALS.register
@dataclass(frozen=True)
class GradientCurves(CurveSignal):
    """Relative error times the rise of the loss if the consumer's output were lost altogether, to second order."""

    def before(self, dense: Dense) -> Tensors:
        """The curvatures, which the blocks' curves are scaled by."""
        few = [dense.batches[index] for index in dense.few]
        found = curvatures(dense.model, dense.layout, few, dense.seed)
        return {name + _CURVATURE: curvature for name, curvature in found.items()}

    def scaled(self, visit: Visit, thinned: Thinned, found: Tensors) -> tuple[Tensor, float]:
        """No pass at all."""
        return thinned.errors, sensitivity(thinned.problem, found[thinned.group.name + _CURVATURE])

    def after(self, found: Tensors) -> Tensors:
        """The curves alone."""
        return {name: tensor for name, tensor in found.items() if not name.endswith(_CURVATURE)}

    def cost(self, work: Work) -> float:
        """A forward and a backward pass of the few batches."""
        return super().cost(work) + PASSES * (work.probe + work.outputs)


def curvatures(model: nn.Module, layout: Layout, batches: Sequence[Batch], seed: int) -> dict[str, Tensor]:
    """Diagonal of the curvature of the loss by each consumer's output, summed over the positions of a sample's row.

    The loss is that of short forward passes: the divergence from the dense logits per row, whose curvature is the
    Fisher information, estimated from squared gradients at labels drawn from the model's own predictions; or the
    relative squared error of embeddings, whose Gauss-Newton curvature is estimated from gradients along random
    directions. One backward pass per batch.

    Args:
        model: the dense model, in eval mode; unchanged.
        layout: its groups.
        batches: a few calibration batches.
        seed: of the draws.

    Returns:
        float64 ``[O]`` by group: an error of variance ``v`` in output ``o`` raises the loss by ``curvature[o] * v``.
    """
    draw = torch.Generator().manual_seed(seed)
    squares: dict[str, Tensor] = {}
    scale = 0.0
    for batch in batches:
        seen: dict[str, Tensor] = {}
        hooks = [(model.get_submodule(group.consumer.module), _keeper(seen, group)) for group in layout.groups]
        with frozen(model), hooked(after=hooks), torch.enable_grad():
            mask = batch.inputs.get(layout.mask) if layout.mask else None
            loss, weight = _loss(outputs_of(model(**on_device(model, batch))), mask, draw)
            gradients = torch.autograd.grad(loss, list(seen.values()), allow_unused=True, materialize_grads=True)
        scale += weight
        for name, gradient in zip(seen, gradients, strict=True):
            square = rows_of(gradient).flatten(0, 1).double().square().sum(0)
            squares[name] = squares[name] + square if name in squares else square
    return {name: square / max(scale, 1e-300) for name, square in squares.items()}


def sensitivity(problem: GroupProblem, curvature: Tensor) -> float:
    """Rise of the loss if the consumer's output is lost altogether: the curvature times the output's variance."""
    moments = problem.measured.moments
    covariance = moments.covariance(problem.owns_bias) / max(moments.count, 1)
    variance = ((problem.weight @ covariance) * problem.weight).sum(1)
    if len(curvature) != len(variance):  # shared taps: one row per output and tap
        variance = variance.reshape(len(curvature), -1).sum(1)
    return float(curvature @ variance)


def _keeper(seen: dict[str, Tensor], group: ChannelGroup) -> Callable[..., Any]:
    def hook(_: nn.Module, args: object, output: Tensor) -> Tensor:
        """Replace the output by one that gradients can be taken of."""
        seen[group.name] = output + torch.zeros((), dtype=output.dtype, device=output.device, requires_grad=True)
        return seen[group.name].clone()  # what follows may add to it in place

    return hook


def _loss(outputs: Outputs, mask: Tensor | None, draw: torch.Generator) -> tuple[Tensor, float]:
    """A scalar whose squared gradient estimates the curvature, and what that is to be divided by."""
    if outputs.logits is not None:
        logits = outputs.logits.flatten(0, -2)
        labels = torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=draw).to(logits.device)
        rows = -logits.log_softmax(-1).gather(-1, labels).reshape(len(outputs.logits), -1)
        picked = real_rows(rows, mask)
        return picked.sum(), 2.0 * len(picked)
    loss = torch.zeros(())
    for states in outputs.embeddings:
        rows = real_rows(rows_of(states), mask if states.dim() == 3 else None)
        spread = (rows - rows.mean(0) if len(rows) > 1 else rows).detach().square().sum().clamp(min=1e-30)
        noise = torch.randn(rows.shape, generator=draw).to(rows)
        loss = loss + (rows * noise).sum() / spread.sqrt()
    return loss, 1.0
