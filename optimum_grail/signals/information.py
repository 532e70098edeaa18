"""The Fisher information of every unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.report.progress import Silent
from optimum_grail.signals import SIGNALS, Dense, Signal, Tensors, Work
from optimum_grail.streams.gradients import mask_gradients
from optimum_grail.streams.probe import Wanted

PASSES = 3
"""Forward passes that a forward and a backward pass cost."""


@SIGNALS.register
@dataclass(frozen=True)
class Information(Signal):
    """``Σ_b (∂L_b/∂m)²`` of the factor ``m`` on a unit over the samples ``b``, see
    :func:`optimum_grail.streams.gradients.mask_gradients`; float64 ``[units]`` by group."""

    wanted: ClassVar[Wanted | None] = None
    labels: ClassVar[bool] = True

    def before(self, dense: Dense) -> Tensors:
        """One backward pass per batch."""
        gradients = mask_gradients(dense.model, dense.layout, dense.batches, dense.seed, Silent())
        return {name: found.square().sum(0).cpu() for name, found in gradients.items()}

    def cost(self, work: Work) -> float:
        """A forward and a backward pass over all data."""
        return PASSES * (work.forward + work.rest)
