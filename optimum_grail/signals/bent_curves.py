"""Error curves bent to the damage that short forward passes measure at several widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy
import torch
from torch import Tensor

from optimum_grail.signals import SIGNALS, Tensors, Visit, Work
from optimum_grail.signals._curves import CurveSignal, Thinned

BENDS = (2, 4, 8)
"""Parts of its units that a group keeps where the damage is measured."""


@SIGNALS.register
@dataclass(frozen=True)
class BentCurves(CurveSignal):
    """The damage itself, by straight lines through what was measured at a half, a quarter and an eighth of the units;
    for networks whose damage is no multiple of the error."""

    tail: ClassVar[bool] = True

    def scaled(self, visit: Visit, thinned: Thinned, found: Tensors) -> tuple[Tensor, float]:
        """One forward pass per bend."""
        return bent(thinned.errors, [thinned.damage(visit, part) for part in BENDS]), 1.0

    def cost(self, work: Work) -> float:
        """Half the model on the few batches for every group and bend."""
        return super().cost(work) + len(BENDS) * work.groups * (work.probe / 2 + work.outputs)


def bent(errors: Tensor, points: Sequence[tuple[float, float]]) -> Tensor:
    """Damage at every error: straight lines from nothing through ``points``, and on along the mean slope.

    Args:
        errors: float64, ascending from 0.
        points: ``(error, damage)``, errors ascending; a damage below an earlier one counts as that one.
    """
    xs, ys = [0.0], [0.0]
    for error, damage in points:
        if error > xs[-1]:
            xs.append(error)
            ys.append(max(damage, ys[-1]))
    beyond = (errors - xs[-1]).clamp(min=0) * (ys[-1] / max(xs[-1], 1e-300))
    return torch.from_numpy(numpy.interp(errors.cpu().numpy(), xs, ys)) + beyond.cpu()
