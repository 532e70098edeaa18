"""Magnitude: the largest weights of every group stay as they are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from optimum_grail.core.pattern import LinearProblem, Pattern, PatternSelector
from optimum_grail.patterns import PATTERNS


@PATTERNS.register
@dataclass(frozen=True)
class Magnitude(PatternSelector):
    """Keep the weights of largest absolute value; nothing makes up for the others."""

    def __call__(self, problem: LinearProblem, pattern: Pattern) -> Tensor:
        """The masked weight."""
        return problem.weight * pattern.best(problem.weight.abs())
