"""Ridge leverage scores: how much of a feature only it can say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.core import papers
from optimum_grail.core.contracts import Selector
from optimum_grail.core.elimination import damped_inverse_
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.selectors import SELECTORS
from optimum_grail.selectors._elimination import check_positive


@SELECTORS.register
@dataclass(frozen=True)
class Leverage(Selector):
    """Keep the units of largest ridge leverage ``Σ_h [G (G + λI)⁻¹]_hh`` (MoDeGPT, Lin et al. 2025, type I).

    Looks at the features alone, not at the weights that read them.

    Args:
        ridge: ``λ`` relative to the mean of the features' second moments, positive and finite.

    Raises:
        ConfigError: ``ridge`` is not a positive number.
    """

    ridge: float = 1e-2
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    paper: ClassVar[str | None] = papers.MODEGPT

    def __post_init__(self) -> None:
        check_positive("leverage", "ridge", self.ridge)

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to the ``keep`` units of largest leverage."""
        gram = problem.measured.moments.gram
        mean = float(gram.diagonal().mean())
        scaled = gram / (self.ridge * mean if mean > 0 else 1.0)  # G / λ, so that λ is one
        scaled.diagonal().add_(1.0)
        inverse = damped_inverse_(scaled, 0.0)
        return Selection.by_score(problem.per_unit(1.0 - inverse.diagonal()), keep)
