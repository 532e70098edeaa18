"""Error curves as they are: every group's relative error counts alike."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from optimum_grail.signals import SIGNALS, Tensors, Visit
from optimum_grail.signals._curves import CurveSignal, Thinned


@SIGNALS.register
@dataclass(frozen=True)
class ErrorCurves(CurveSignal):
    """Relative errors with a sensitivity of 1 (the prior of ZipLM's search, Kurtic et al. 2023)."""

    def scaled(self, visit: Visit, thinned: Thinned, found: Tensors) -> tuple[Tensor, float]:
        """The errors themselves."""
        return thinned.errors, 1.0
