"""None: plain pruning or folding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.compensators import COMPENSATORS
from optimum_grail.core.contracts import Compensator
from optimum_grail.core.problem import Compensation, GroupProblem, Need
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction


@COMPENSATORS.register
@dataclass(frozen=True)
class NoCompensation(Compensator):
    """Leave the consumer's kept columns as they are (folding: sum the columns of a cluster)."""

    refits_whole_groups: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __call__(self, problem: GroupProblem, reduction: Reduction) -> Compensation:
        """The untouched columns."""
        return Compensation(Readout(reduction.lift_columns(problem.weight, problem.span)))
