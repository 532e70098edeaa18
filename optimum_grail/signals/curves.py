"""Error curves whose scale one short forward pass per group measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from optimum_grail.signals import SIGNALS, Tensors, Visit, Work
from optimum_grail.signals._curves import CurveSignal, Thinned

PART = 2
"""A group is halved."""


@SIGNALS.register
@dataclass(frozen=True)
class Curves(CurveSignal):
    """Relative error times the rise of the loss per unit of error, measured with the group halved and compensated."""

    tail: ClassVar[bool] = True

    def scaled(self, visit: Visit, thinned: Thinned, found: Tensors) -> tuple[Tensor, float]:
        """One forward pass."""
        error, rise = thinned.damage(visit, PART)
        return thinned.errors, rise / max(error, 1e-12)

    def cost(self, work: Work) -> float:
        """Half the model on the few batches for every group."""
        return super().cost(work) + work.groups * (work.probe / 2 + work.outputs)
