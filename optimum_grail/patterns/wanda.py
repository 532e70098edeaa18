"""Wanda: absolute weight times the norm of what enters it (Sun et al. 2024, eq. 1, N:M as in sec. 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from optimum_grail.core.pattern import LinearProblem, Pattern, PatternSelector
from optimum_grail.patterns import PATTERNS
from optimum_grail.selectors.wanda import PAPER


@PATTERNS.register
@dataclass(frozen=True)
class Wanda(PatternSelector):
    """Keep the weights of largest ``|W_ij| · sqrt(Σ x_j²)``; nothing makes up for the others."""

    paper: ClassVar[str | None] = PAPER

    def __call__(self, problem: LinearProblem, pattern: Pattern) -> Tensor:
        """The masked weight."""
        norms = problem.fit.gram.diagonal().clamp(min=0).sqrt()
        return problem.weight * pattern.best(problem.weight.abs() * norms)
