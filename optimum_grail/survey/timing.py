"""How often modules are used, and how long blocks take at each width."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.data.batches import Batch
from optimum_grail.models.layout import Layout
from optimum_grail.models.surgery import narrow_
from optimum_grail.streams.calls import Call, on_device
from optimum_grail.streams.hooks import first, hooked
from optimum_grail.streams.masking import spare

FRACTIONS = (0.25, 0.5, 0.75, 1.0)
"""Widths that are timed, beside a single unit and none; those between are interpolated."""
REPEATS = 5


@torch.no_grad()
def positions(model: nn.Module, layout: Layout, batch: Batch) -> dict[str, Tensor]:
    """Of every module with parameters inside the blocks: at how many positions (tokens, pixels) of one sample they are
    used, and how many they are; int64 ``[2]``, by path."""
    found: dict[str, Tensor] = {}

    def hook(path: str, size: int) -> Callable[..., None]:
        """A hook for the module at ``path`` with ``size`` parameters."""

        def count(module: nn.Module, args: Any, output: Any) -> None:
            """Note the positions of one sample."""
            output = first(output)
            channels = output.shape[1] if output.dim() == 4 else output.shape[-1]
            found[path] = torch.tensor([output[0].numel() // max(channels, 1), size])

        return count

    hooks = []
    for stack in layout.stacks:
        for block in stack.blocks:
            for local, module in model.get_submodule(block).named_modules():
                size = sum(parameter.numel() for parameter in module.parameters(recurse=False))
                if size:
                    hooks.append((module, hook(f"{block}.{local}".rstrip("."), size)))
    with hooked(after=hooks):
        model(**on_device(model, batch.head()))
    return found


@torch.no_grad()
def latency(model: nn.Module, path: str, call: Call, hidden: Tensor, group: ChannelGroup | None = None) -> Tensor:
    """Seconds of the block at ``path``; float64, a scalar, or with ``group`` at every width of it from 0 on,
    ``[units + 1]``.

    A few widths are measured on a narrowed copy, the others interpolated; times never fall as widths grow.
    """
    if group is None:
        return torch.tensor(_seconds(model.get_submodule(path), call, hidden), dtype=torch.float64)
    widths = sorted({group.fewest, 1, *(max(round(fraction * group.units), 1) for fraction in FRACTIONS)})
    times = []
    for width in widths:
        with spare(model, path) as block:
            narrow_(model, group, width)
            times.append(_seconds(block, call, hidden))
    table = np.interp(np.arange(group.units + 1), widths, np.maximum.accumulate(times))
    return torch.from_numpy(table)


def _seconds(block: nn.Module, call: Call, hidden: Tensor) -> float:
    """Median seconds of a run, the first one left out."""
    times = []
    for _ in range(REPEATS + 1):
        _wait(hidden)
        start = time.perf_counter()
        call.run(block, hidden.clone())
        _wait(hidden)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _wait(hidden: Tensor) -> None:
    if hidden.is_cuda:
        torch.cuda.synchronize(hidden.device)
