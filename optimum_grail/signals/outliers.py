"""Weight times activation norm of every feature, on which outliers are counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from optimum_grail.core.problem import GroupProblem
from optimum_grail.signals import SIGNALS, Signal, Tensors, Visit


@SIGNALS.register
@dataclass(frozen=True)
class Outliers(Signal):
    """``Σ_o |W_oh| · ‖s_h‖`` of every feature (Yin et al. 2024, "OWL"); float64 ``[F]`` by group."""

    moments: ClassVar[bool] = True

    def block(self, visit: Visit, sums: Tensors, found: Tensors) -> Tensors:
        """The products of the block's groups."""
        return {name: _products(problem).cpu() for name, problem in visit.problems.items()}


def _products(problem: GroupProblem) -> Tensor:
    norms = problem.measured.moments.energy.clamp(min=0).sqrt()
    return problem.weight.abs().sum(0) * norms
