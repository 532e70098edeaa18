"""Sums over what enters the linear layers of a block, in the student and, for what they put out, in the dense model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from optimum_grail.core.moments import MomentSums, TargetSums
from optimum_grail.core.pattern import LinearProblem, LinearSums
from optimum_grail.data.batches import Batch
from optimum_grail.streams.calls import Call

FIT, HELD = 0, 1


@dataclass(frozen=True)
class Pair:
    """A block of the student and what it was in the dense model, with what both are called with.

    Args:
        path: of the block in the model.
        student: the block; its layers are masked one after the other.
        dense: a copy of it from before.
        calls: per batch.
        hidden: what enters the student's, per batch.
        targets: what enters the dense one, per batch.
    """

    path: str
    student: nn.Module
    dense: nn.Module
    calls: Sequence[Call]
    hidden: Sequence[Tensor]
    targets: Sequence[Tensor]


def linear_stages(pair: Pair) -> list[list[str]]:
    """Paths of the linear layers that the block calls, in the order of their calls; those that read the same input
    stand together. Layers that a batch does not reach, or that are called twice, are left out."""
    seen: list[tuple[str, Tensor]] = []

    def note(path: str) -> Callable[..., None]:
        """A hook that notes what enters the layer at ``path``."""
        return lambda _, inputs, __: seen.append((path, inputs[0]))

    _run(pair.student, pair.calls[0], pair.hidden[0], {path: note(path) for path in _linears(pair.student)})
    called = [path for path, _ in seen]
    stages: list[list[str]] = []
    before: Tensor | None = None
    for path, entering in seen:
        if called.count(path) > 1:
            continue
        if before is not None and entering.data_ptr() == before.data_ptr() and entering.shape == before.shape:
            stages[-1].append(path)
        else:
            stages.append([path])
        before = entering
    return stages


def problems_of(
    pair: Pair, paths: Sequence[str], batches: Sequence[Batch], masks: Sequence[Tensor | None]
) -> list[LinearProblem]:
    """The linear layers at ``paths`` of a block as numbers, measured on all batches.

    Args:
        pair: the block.
        paths: of layers that read the same input.
        batches: tell which samples are held out.
        masks: ``[B, T]`` masks of real rows, ``None`` where every row is real.
    """
    layers = {path: linear_at(pair.student, path) for path in paths}
    width, device = layers[paths[0]].in_features, layers[paths[0]].weight.device
    grams = [MomentSums.zero(width, device) for _ in (FIT, HELD)]
    drifts = {
        path: [TargetSums.zero(layer.out_features, width, device) for _ in (FIT, HELD)]
        for path, layer in layers.items()
    }
    for index, call in enumerate(pair.calls):
        entered, left = dict[str, Tensor](), dict[str, Tensor]()
        _run(pair.dense, call, pair.targets[index], {path: _keep_output(path, left) for path in paths})
        _run(pair.student, call, pair.hidden[index], {paths[0]: _keep_input(paths[0], entered)})
        real = _real(masks[index], entered[paths[0]])
        rows = entered[paths[0]].flatten(0, -2)[real]
        parts = _parts(batches[index], len(rows))
        for place, part in parts:
            grams[place].add_(rows[part])
        for path, layer in layers.items():
            with torch.no_grad():
                drift = left[path].flatten(0, -2)[real] - layer(rows)
            for place, part in parts:
                drifts[path][place].add_(drift[part], rows[part])
    fit, held = (
        {path: LinearSums(gram.count, gram.gram, drifts[path][place].cross) for path in paths}
        for place, gram in enumerate(grams)
    )
    return [
        LinearProblem(f"{pair.path}.{path}", layer.weight.detach().double(), fit[path], held[path])
        for path, layer in layers.items()
    ]


def linear_at(block: nn.Module, path: str) -> nn.Linear:
    """The linear layer at ``path``, which :func:`linear_stages` has named."""
    return cast(nn.Linear, block.get_submodule(path))


def _parts(batch: Batch, count: int) -> list[tuple[int, slice]]:
    """Which rows of a batch are to fit on and which to judge by."""
    if batch.split != "halves":
        return [(HELD if batch.split == "held" else FIT, slice(None))]
    half = (count + 1) // 2
    return [(FIT, slice(half)), (HELD, slice(half, None))]


def _real(mask: Tensor | None, entering: Tensor) -> Tensor:
    """Which rows count: those of real tokens, where there is a row per token."""
    count = entering.shape[:-1].numel()
    if mask is None or mask.numel() != count:
        return torch.ones(count, dtype=torch.bool, device=entering.device)
    return mask.flatten().bool().to(entering.device)


def _linears(block: nn.Module) -> list[str]:
    return [path for path, module in block.named_modules() if path and type(module) is nn.Linear]


def _keep_input(path: str, found: dict[str, Tensor]) -> Callable[..., None]:
    return lambda _, inputs, __: found.update({path: inputs[0]})


def _keep_output(path: str, found: dict[str, Tensor]) -> Callable[..., None]:
    return lambda _, __, output: found.update({path: output})


def _run(block: nn.Module, call: Call, hidden: Tensor, hooks: dict[str, Callable[..., None]]) -> None:
    with ExitStack() as stack, torch.no_grad():
        for path, hook in hooks.items():
            stack.callback(block.get_submodule(path).register_forward_hook(hook).remove)
        call.run(block, hidden.clone())
