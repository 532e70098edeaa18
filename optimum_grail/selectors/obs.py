"""OBS: backward elimination by the error that a least-squares readout leaves, on the student's statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from optimum_grail.core import papers
from optimum_grail.core.contracts import Selector
from optimum_grail.core.elimination import damped_inverse_, eliminate
from optimum_grail.core.group_elimination import block_costs, diagonal_blocks
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.core.worst_source import for_the_worst
from optimum_grail.errors import ConfigError
from optimum_grail.selectors import SELECTORS
from optimum_grail.selectors._elimination import by_elimination, check_positive

Across = Literal["sum", "mean", "max"]


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
        across: how errors on several sources add up: ``"sum"`` over all rows; ``"mean"`` of the errors relative to
            each source's variance, so that a source of loud features counts no more than a quiet one; ``"max"`` of
            these at the width asked for, found in five eliminations by
            :func:`optimum_grail.core.worst_source.for_the_worst`. Sources are joined into three sets at most, and a
            compensator that judges on held-out rows judges by these sets too.

    Raises:
        ConfigError: ``damping`` is not a positive number, or another ``across``.
    """

    damping: float = 1e-3
    greedy: bool = True
    across: Across = "sum"
    paper: ClassVar[str | None] = papers.ZIPLM

    def __post_init__(self) -> None:
        check_positive("obs", "damping", self.damping)
        if self.across not in get_args(Across):
            raise ConfigError(f"obs across is {self.across!r}; expected {', '.join(get_args(Across))}.")

    @property
    def needs(self) -> frozenset[Need]:
        """Second moments; by source, if their errors are to count alike."""
        return frozenset({"gram"} if self.across == "sum" else {"gram", "held-out", "sources"})

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to ``keep`` units."""
        if self.across == "max" and problem.measured.crossed:
            sources = [subset.moments for subset in problem.measured.subsets]
            return for_the_worst(
                lambda mixed: self._chosen(problem, keep, lambda: mixed),
                problem.weight,
                sources,
                problem.owns_bias,
                self.damping,
            )
        return self._chosen(problem, keep, lambda: self._covariance(problem))

    def _chosen(self, problem: GroupProblem, keep: int, covariance: Callable[[], Tensor]) -> Selection:
        """What stays where the error is measured with ``covariance()``, float64 ``[F, F]``."""
        if self.greedy:  # the matrix has no name here: it is freed while the elimination runs
            result = eliminate(problem.weight, covariance(), problem.units, problem.units - keep, self.damping)
            return by_elimination(problem.units, result)
        inverse = damped_inverse_(covariance().clone(), self.damping)
        return Selection.by_score(block_costs(problem.weight, diagonal_blocks(inverse, problem.units)), keep)

    def _covariance(self, problem: GroupProblem) -> Tensor:
        """What the error is measured with, float64 ``[F, F]``."""
        affine, statistics = problem.owns_bias, problem.measured
        if self.across != "mean" or not statistics.crossed:
            return statistics.moments.covariance(affine)
        total = torch.zeros_like(statistics.subsets[0].moments.gram)
        for subset in statistics.subsets:
            covariance = subset.moments.covariance(affine)
            total += covariance / float(((problem.weight @ covariance) * problem.weight).sum().clamp(min=1e-300))
        return total
