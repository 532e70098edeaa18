"""OBS: exact greedy backward elimination on the student's statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.core.elimination import eliminate
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.core.reduction import Reduction
from optimum_grail.errors import ConfigError
from optimum_grail.selectors import SELECTORS


@SELECTORS.register
@dataclass(frozen=True)
class Obs:
    """Remove one unit at a time, always the one whose loss the others can make up for best.

    The criterion is the error that a least-squares readout leaves (ZipLM, Kurtic et al. 2023, eq. 3-5), centred where
    the consumer owns a bias. Keeps the removal order and the error curve.

    Args:
        damping: ridge relative to each feature's second moment, positive and finite.

    Raises:
        ConfigError: ``damping`` is not a positive number.
    """

    damping: float = 1e-3
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})

    def __post_init__(self) -> None:
        if not 0 < self.damping < math.inf:
            raise ConfigError(f"obs damping is {self.damping!r}; expected a positive number, for example 1e-3.")

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to ``keep`` units, greedily."""
        gram = problem.measured.moments.covariance(problem.owns_bias)
        result = eliminate(problem.weight.to(gram), gram, problem.units, problem.units - keep, self.damping)
        gone = set(result.order.tolist())
        kept = [unit for unit in range(problem.units) if unit not in gone]
        reduction = Reduction.prune(problem.units, result.order.new_tensor(kept))
        return Selection(reduction, result.order, result.errors / max(result.total, 1e-300))
