"""ZipLM: exact greedy elimination, one structure at a time, as published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.core import papers
from optimum_grail.core.contracts import Selector
from optimum_grail.core.elimination import eliminate
from optimum_grail.core.group_elimination import mean_damped
from optimum_grail.core.preset import SURGEON, Preset
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.selectors import SELECTORS
from optimum_grail.selectors._elimination import by_elimination, check_positive


@SELECTORS.register
@dataclass(frozen=True)
class Ziplm(Selector):
    """Remove one unit at a time, that of least ``tr(W_S ((H⁻¹)_SS)⁻¹ W_Sᵀ)`` (ZipLM, Kurtic et al. 2023, eq. 3-5).

    ``H`` is uncentred and damped on its mean diagonal. The error-aware search over widths of the paper is the
    allocation ``knapsack``; the weights that it ends with are those of the compensator ``grail:anchor=naive``.

    Args:
        damping: ridge relative to the mean of the features' second moments, positive and finite.

    Raises:
        ConfigError: ``damping`` is not a positive number.
    """

    damping: float = 1e-2
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    paper: ClassVar[str | None] = papers.ZIPLM
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            name="ziplm",
            summary="Exact greedy elimination with updated weights; widths by the layers' relative errors, rehearsed "
            "against the uniform ones instead of the paper's random search.",
            paper="Kurtic et al. 2023 (ZipLM)",
            selector="ziplm",
            compensator=SURGEON,
            allocation="knapsack:sensitivity=error",
            cost="two forward passes, two eliminations per layer",
        ),
    )

    def __post_init__(self) -> None:
        check_positive("ziplm", "damping", self.damping)

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to ``keep`` units, greedily."""
        gram = problem.measured.moments.gram
        weight, damped = mean_damped(problem.weight.to(gram), gram, self.damping)
        return by_elimination(problem.units, eliminate(weight, damped, problem.units, problem.units - keep, 0.0))
