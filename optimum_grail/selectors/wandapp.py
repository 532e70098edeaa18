"""Wanda++, structured: Wanda's score with the gradient of the block's own output added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.errors import ConfigError
from optimum_grail.selectors import SELECTORS
from optimum_grail.selectors._gradients import gradients
from optimum_grail.selectors._surgeon import check_positive


@SELECTORS.register
@dataclass(frozen=True)
class Wandapp:
    """Keep the units of largest ``Σ_h mean_o (α G_oh + ‖s_h‖) |W_oh|`` over their features ``h``.

    The regional gradient score of Wanda++ (Yang et al. 2025): ``G`` is the gradient of ``‖f(x)‖₂``, ``f`` the block,
    and ``‖s_h‖`` the feature's Euclidean norm over the rows of a sample, both as root mean squares over the samples;
    here as roots of sums over them, which ranks the same.

    Args:
        alpha: weight ``α`` of the gradients, positive and finite.
        rounds: rounds of regional optimisation, which tunes each block towards what it put out before its units went,
            behind any readout; 0 for none.

    Raises:
        ConfigError: a value outside its range.
    """

    alpha: float = 100.0
    rounds: int = 0
    needs: ClassVar[frozenset[Need]] = frozenset({"gram", "block-gradients"})

    def __post_init__(self) -> None:
        check_positive("wandapp", "alpha", self.alpha)
        if not isinstance(self.rounds, int) or isinstance(self.rounds, bool) or self.rounds < 0:
            raise ConfigError(f"wandapp rounds is {self.rounds!r}; expected a whole number of at least 0.")

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to the ``keep`` units of largest score."""
        norm = problem.measured.moments.energy.clamp(min=0).sqrt()
        regional = self.alpha * gradients(problem, "block").to(norm) + norm
        score = (regional * problem.weight.to(norm).abs()).mean(0)
        return Selection.by_score(problem.per_unit(score), keep)
