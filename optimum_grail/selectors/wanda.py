"""Wanda, structured: mean absolute consumer weight times the feature's root mean square (Sun et al. 2023, eq. 1; the
structured form Wanda-SP is that of the FLAP repository)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.selectors import SELECTORS


@SELECTORS.register
@dataclass(frozen=True)
class Wanda:
    """Keep the units of largest ``Σ_h mean_o|W_oh| · sqrt(E s_h²)`` over their features ``h``."""

    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to the ``keep`` units of largest score."""
        moments = problem.measured.moments
        norm = (moments.energy / max(moments.count, 1)).clamp(min=0).sqrt()
        score = problem.weight.to(norm).abs().mean(0) * norm
        return Selection.by_score(problem.per_unit(score), keep)
