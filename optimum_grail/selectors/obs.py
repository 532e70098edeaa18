"""OBS: backward elimination by the error that a least-squares readout leaves, on the student's statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.core import papers
from optimum_grail.core.contracts import Selector
from optimum_grail.core.elimination import damped_inverse_, eliminate
from optimum_grail.core.group_elimination import block_costs, diagonal_blocks
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.selectors import SELECTORS
from optimum_grail.selectors._elimination import by_elimination, check_positive


@SELECTORS.register
@dataclass(frozen=True)
class Obs(Selector):
    """Remove one unit at a time, always the one whose loss the others can make up for best.

    The criterion is the error that a least-squares readout leaves (ZipLM, Kurtic et al. 2023, eq. 3-5), centred where
    the consumer owns a bias. Keeps the removal order and, if greedy, the error curve.

    Args:
        damping: ridge relative to each feature's second moment, positive and finite.
        greedy: update all costs after every removal; else score once and remove the cheapest together, which takes
            both of two units that stand in for each other.

    Raises:
        ConfigError: ``damping`` is not a positive number.
    """

    damping: float = 1e-3
    greedy: bool = True
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    paper: ClassVar[str | None] = papers.ZIPLM

    def __post_init__(self) -> None:
        check_positive("obs", "damping", self.damping)

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to ``keep`` units."""
        affine, remove = problem.owns_bias, problem.units - keep
        if self.greedy:  # the sum over all rows has no name here: it is freed while the elimination runs
            result = eliminate(
                problem.weight, problem.measured.moments.covariance(affine), problem.units, remove, self.damping
            )
            return by_elimination(problem.units, result)
        inverse = damped_inverse_(problem.measured.moments.covariance(affine).clone(), self.damping)
        return Selection.by_score(block_costs(problem.weight, diagonal_blocks(inverse, problem.units)), keep)
