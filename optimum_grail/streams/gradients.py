"""Gradients that some scores read: of the dense model's loss by masks on units, of a block's output by a weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.data.batches import IGNORED, Batch
from optimum_grail.data.portion import Portion, draws
from optimum_grail.errors import DataError
from optimum_grail.models.layout import Layout
from optimum_grail.models.matrix import feature_axis
from optimum_grail.report.progress import Progress
from optimum_grail.streams.blocks import BlockRun
from optimum_grail.streams.calls import on_device
from optimum_grail.streams.capture import never_called
from optimum_grail.streams.hooks import first, hooked
from optimum_grail.streams.language_head import LanguageHead, short
from optimum_grail.streams.outputs import Outlet, Outputs, Slopes, outputs_of, pull
from optimum_grail.streams.probe import features_of, fits, rows_of, unrolled
from optimum_grail.streams.problems import view_of


def mask_gradients(
    model: nn.Module, layout: Layout, batches: Sequence[Batch], seed: int, progress: Progress
) -> dict[str, Tensor]:
    """Per sample, the gradient of the loss by a factor on each unit, at one; float64 ``[samples, units]`` by group.

    The factor sits at the consumer's input, so it stands for the unit as a whole (``m ∂L/∂m = Σ θ ∂L/∂θ`` over the
    unit's columns). The loss of a sample is its mean cross-entropy: against the next tokens for causal language models,
    else against the batches' labels; where they have none, against labels drawn from the model's own predictions, so
    that squares estimate its Fisher information. Models without logits are read as Gaussian: the loss is half the
    squared distance of their (normalised) output from a draw around it.

    Args:
        model: the dense model, in eval mode; unchanged.
        layout: its groups.
        batches: calibration batches; one backward pass each. What a portion finds is put together with that of the
            other processes.
        seed: of the draws.
        progress: told once per batch.
    """
    portion = Portion.of(batches)
    found: dict[str, list[Tensor]] = {group.name: [] for group in layout.groups}
    head = LanguageHead.of(model, short(on_device(model, portion.sample)))
    with frozen(model):
        for number, batch in zip(portion.numbers, portion, strict=True):
            inputs, masks = on_device(model, batch), dict[str, Tensor]()
            hooks = [(model.get_submodule(g.consumer.module), _multiplier(masks, g, batch.size)) for g in layout.groups]
            real = inputs.get(layout.mask) if layout.mask else None
            with hooked(before=hooks), torch.enable_grad():
                outputs = Outlet(model, head).outputs(inputs)
            _check_reached(layout, masks, batch)
            sample = _Samples(model, inputs, real, batch.labels, draws(seed, number))
            start = sample.start(outputs, head)
            # the last block of an image encoder may not reach the loss: an image-text model reads an earlier one
            gradients = pull(start, list(masks.values()))
            for name, gradient in zip(masks, gradients, strict=True):
                found[name].append(gradient.detach().double())
            progress.update(1, "measuring gradients")
    sizes = [batch.size for batch in portion]
    return {
        name: portion.joined(f"gradients of {name}", torch.cat(parts) if parts else torch.empty(0), sizes)
        for name, parts in found.items()
    }


def _check_reached(layout: Layout, masks: Mapping[str, Tensor], batch: Batch) -> None:
    for stack in layout.stacks:
        for group in layout.of_stack(stack):
            if group.name not in masks:
                raise never_called(group.block, stack.name, batch)


@torch.no_grad()
def check_labels(model: nn.Module, batches: Sequence[Batch]) -> None:
    """See that the batches' labels are classes that the model tells apart; costs one sample's forward pass.

    Raises:
        DataError: they are not.
    """
    logits = outputs_of(model(**on_device(model, batches[0].head()))).logits
    name = type(model).__name__
    if logits is None:
        raise DataError(f"{name} has no classes: label_column cannot be used. Leave it out.")
    for batch in batches:
        inputs, labels = batch.inputs, batch.labels
        rows = inputs.get("input_ids", next(iter(inputs.values())))
        expected = rows.shape[: 1 if logits.dim() == 2 else 2]
        if labels is None or labels.shape != expected:
            found = "no labels" if labels is None else f"labels of the shape {list(labels.shape)}"
            raise DataError(
                f"A calibration batch has {found}, expected {list(expected)}: one class for each output of {name}. "
                "Leave label_column out to use the model's own predictions."
            )
        real = labels[labels != IGNORED]
        if real.numel() and not 0 <= int(real.min()) <= int(real.max()) < logits.shape[-1]:
            raise DataError(
                f"The calibration labels go from {int(real.min())} to {int(real.max())}, and {name} has "
                f"{logits.shape[-1]} classes. Choose the data the model was trained for."
            )


@dataclass(frozen=True)
class _Samples:
    """The samples of a batch, as their losses see them.

    Args:
        model: the dense model.
        inputs: of the batch, on the model's device.
        mask: ``[B, T]``, non-zero on real tokens; ``None``: all are.
        given: the batch's labels, or ``None``.
        draw: of labels where there are none.
    """

    model: nn.Module
    inputs: Mapping[str, Any]
    mask: Tensor | None
    given: Tensor | None
    draw: torch.Generator

    def start(self, outputs: Outputs, head: LanguageHead | None) -> Slopes:
        """Where the backward pass of the sum of the samples' mean losses begins."""
        with torch.enable_grad():
            if head is not None and outputs.entering is not None:
                return self._of_head(outputs.entering, head)
            if outputs.logits is None:
                loss = sum((_gaussian(states, self.mask, self.draw) for states in outputs.embeddings), torch.zeros(()))
            else:
                logits, labels = self._predicted(outputs.logits)
                shares = _shares(logits, labels, self.mask)
                flat = logits.flatten(0, -2)
                loss = (_surprise(flat, None if labels is None else labels.flatten(), self.draw) * shares).sum()
        return Slopes((loss,), (torch.ones_like(loss),), 1.0)

    def _of_head(self, entering: Tensor, head: LanguageHead) -> Slopes:
        """The same, the logits made slice by slice."""
        held = entering.detach().requires_grad_()
        rows, labels = self._predicted(held)
        shares, flat = _shares(rows, labels, self.mask), rows.flatten(0, -2)

        def loss(logits: Tensor, index: Tensor) -> Tensor:
            """Of the rows ``index``."""
            wanted = None if labels is None else labels.flatten()[index]
            return (_surprise(logits, wanted, self.draw) * shares[index]).sum()

        (gradient,) = torch.autograd.grad(flat, held, head.pull(flat.detach(), loss))
        return Slopes((entering,), (gradient,), 1.0)

    def _predicted(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Those of ``rows`` (logits, or what they are made of) that predict something, and the labels: the next tokens
        of causal language models, else the given ones, else ``None``."""
        labels = self.inputs.get("input_ids")
        writes = isinstance(self.model, PreTrainedModel) and self.model.can_generate()
        if writes and rows.dim() == 3 and labels is not None:
            real = torch.ones_like(labels) if self.mask is None else self.mask
            return rows[:, :-1], labels.masked_fill(real == 0, IGNORED)[:, 1:]
        return rows, None if self.given is None else self.given.to(rows.device)


def _shares(rows: Tensor, labels: Tensor | None, mask: Tensor | None) -> Tensor:
    """What the loss of each of ``rows`` ``[B, (T,) ...]`` counts in the sum of the samples' means, ``[N]``."""
    counted = torch.ones(rows.shape[:-1], device=rows.device)
    if labels is not None:
        counted = (labels != IGNORED).to(counted)
    elif fits(mask, rows):
        counted = (mask != 0).to(counted)
    counted = counted.reshape(len(counted), -1)
    return (counted / counted.sum(1, keepdim=True).clamp(min=1)).flatten()


def _surprise(logits: Tensor, labels: Tensor | None, draw: torch.Generator) -> Tensor:
    """Cross-entropy ``[N]`` against ``labels``, zero where there is none; against labels drawn from the logits
    themselves, where none are given."""
    if labels is None:
        labels = torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=draw).to(logits.device).squeeze(1)
    return nn.functional.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)


def _gaussian(states: Tensor, mask: Tensor | None, draw: torch.Generator) -> Tensor:
    """The loss of a Gaussian around the states, by the surrogate ``-ε·f(x)``, which has the same gradient."""
    rows = nn.functional.normalize(rows_of(states), dim=-1)
    noise = torch.randn(rows.shape, generator=draw).to(rows.device)
    products = (rows * noise).sum(-1)
    if not fits(mask, products):
        return -products.mean(1).sum()
    real = mask.to(products.dtype)
    return -((products * real).sum(1) / real.sum(1).clamp(min=1)).sum()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No gradients for parameters: only masks and hidden states are differentiated."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    try:
        for name in trained:
            model.get_parameter(name).requires_grad_(False)
        yield
    finally:
        for name in trained:  # by name: hooks of an offloaded model have put others in their place
            model.get_parameter(name).requires_grad_(True)


def _multiplier(masks: dict[str, Tensor], group: ChannelGroup, samples: int) -> Callable[..., Any]:
    """A hook on a consumer: factors of one on every unit of every sample, ``[samples, units]``, kept in ``masks``."""

    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Multiply the features by their mask."""
        features = args[0]
        if group.name not in masks:
            masks[group.name] = torch.ones(samples, group.units, device=features.device, requires_grad=True)
        factors = masks[group.name].repeat_interleave(group.consumer.span, 1)
        between = (1,) * (features.dim() - 2)
        shape = (*factors.shape, *between) if feature_axis(module) == 1 else (len(factors), *between, factors.shape[1])
        return (features * factors.view(shape).to(features.dtype), *args[1:]), kwargs

    return hook


def block_gradients(run: BlockRun, groups: Sequence[ChannelGroup], model: nn.Module) -> dict[str, Tensor]:
    """Euclidean norm over samples of ``∂‖f(x)‖₂ / ∂W``, ``f`` the block and ``W`` a consumer's matrix; float64
    ``[O, F]`` by group (regional gradients: Yang et al. 2025, "Wanda++").

    The gradient of one sample is the product of the consumer's inputs and the gradients of its outputs, so a batch
    takes one backward pass.

    Args:
        run: the student's block and stream.
        groups: groups of the block.
        model: the model, for the shape of the groups' matrices.
    """
    views = {group.name: view_of(model, group) for group in groups}
    modules = {group.name: model.get_submodule(group.consumer.module) for group in groups}
    squares: dict[str, Tensor] = {}
    with frozen(run.block):
        for call, hidden in zip(run.calls, run.streams.student, strict=True):
            seen: dict[str, tuple[Tensor, Tensor]] = {}
            hooks = [(module, _keeper(seen, name)) for name, module in modules.items()]
            with hooked(after=hooks), torch.enable_grad():
                output = first(call.run(run.block, hidden.clone().requires_grad_()))
                norms = output.flatten(1).float().norm(dim=1).sum()
                gradients = torch.autograd.grad(norms, [pair[1] for pair in seen.values()])
            for (name, (inputs, _)), gradient in zip(seen.items(), gradients, strict=True):
                tokens = hidden.shape[:-1]
                pair = unrolled(inputs.detach(), tokens), unrolled(gradient, tokens)
                square = _per_sample(*pair, modules[name], views[name])
                squares[name] = squares[name] + square if name in squares else square
    squares = run.batches.ranks.added(f"gradients of {run.path}", squares)
    return {name: total.sqrt() for name, total in squares.items()}


def _keeper(seen: dict[str, tuple[Tensor, Tensor]], name: str) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Keep input and output."""
        seen[name] = (args[0], output)

    return hook


def _per_sample(inputs: Tensor, gradient: Tensor, module: nn.Module, view: str) -> Tensor:
    """Sum over samples of the squared weight gradient, float64 ``[O, F]`` (``[O·taps, I]`` in the shared view)."""
    features = features_of(inputs, module, "patch").float()
    outputs = rows_of(gradient, feature_axis(module)).float()
    total = torch.zeros(outputs.shape[-1], features.shape[-1], dtype=torch.float64, device=inputs.device)
    for sample, delta in zip(features, outputs, strict=True):
        total += (delta.T @ sample).double().square()
    if not isinstance(module, nn.Conv2d) or view == "patch":
        return total
    taps = features.shape[-1] // inputs.shape[1]
    return total.unflatten(1, (-1, taps)).transpose(1, 2).flatten(0, 1)
