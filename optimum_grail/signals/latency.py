"""How long blocks take at each width."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.models.surgery import narrow_
from optimum_grail.signals import SIGNALS, Signal, Tensors, Visit, Work
from optimum_grail.streams.calls import Call
from optimum_grail.streams.masking import spare

FRACTIONS = (0.25, 0.5, 0.75, 1.0)
"""Widths that are timed, beside a single unit and none; those between are interpolated."""
REPEATS = 5


@SIGNALS.register
@dataclass(frozen=True)
class Latency(Signal):
    """Seconds of every block by path, and at every width of its groups by name, see :func:`latency`; groups of one tie
    are timed once."""

    timed: ClassVar[bool] = True

    def block(self, visit: Visit, sums: Tensors, found: Tensors) -> Tensors:
        """Time the block on its first calibration batch, which the first process has."""
        ranks = visit.dense.batches.ranks
        return ranks.from_first(f"times of {visit.path}", lambda: self._times(visit, found))

    def _times(self, visit: Visit, found: Tensors) -> dict[str, Tensor]:
        model, path, hidden = visit.dense.model, visit.path, visit.inputs[0]
        call = visit.calls[path][visit.dense.few[0]]
        times = {path: latency(model, path, call, hidden)}
        for group in visit.groups:
            tied = [other.name for other in visit.dense.layout.groups if other.tie == group.tie]
            twin = next(({**found, **times}[name] for name in tied if name in found or name in times), None)
            times[group.name] = latency(model, path, call, hidden, group) if twin is None else twin
        return times

    def cost(self, work: Work) -> float:
        """Every block and every width of its groups, on one batch."""
        widths = work.blocks + (len(FRACTIONS) + 2) * work.groups
        return work.forward / work.batches * (REPEATS + 1) * widths / work.blocks


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
