"""FLAP's standardised fluctuation of every unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.core.fluctuation import fluctuation
from optimum_grail.signals import SIGNALS, Signal, Tensors, Visit


@SIGNALS.register
@dataclass(frozen=True)
class Fluctuation(Signal):
    """Scores of :func:`optimum_grail.core.fluctuation.fluctuation`; float64 ``[units]`` by group."""

    moments: ClassVar[bool] = True

    def block(self, visit: Visit, sums: Tensors, found: Tensors) -> Tensors:
        """The scores of the block's groups."""
        return {name: fluctuation(problem).cpu() for name, problem in visit.problems.items()}
