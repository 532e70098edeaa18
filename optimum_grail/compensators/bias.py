"""Bias: the mean of what is dropped goes into the consumer's bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.compensators import COMPENSATORS
from optimum_grail.compensators._diagnostics import with_errors
from optimum_grail.core import papers
from optimum_grail.core.contracts import Compensator
from optimum_grail.core.problem import Compensation, GroupProblem, Need
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import NormalEquations


@COMPENSATORS.register
@dataclass(frozen=True)
class Bias(Compensator):
    """``b' = b + W_D μ_D``, columns untouched (FLAP, An et al. 2024): the output keeps its mean.

    Where the consumer owns no bias nothing can be added and this is plain pruning.

    Args:
        affine: ``True`` gives consumers without a bias one first, where the stock config can say so (a LLaMA);
            ``None``: only where the consumer owns one; ``False``: nowhere.
    """

    affine: bool | None = None
    refits_whole_groups: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    paper: ClassVar[str | None] = papers.FLAP

    @property
    def wants_bias(self) -> bool:
        """Where ``affine`` is asked for outright."""
        return self.affine is True

    def __call__(self, problem: GroupProblem, reduction: Reduction) -> Compensation:
        """Plain pruning or folding with the bias that keeps the output's mean."""
        equations = NormalEquations.of(problem.weight, problem.measured.moments, None, reduction)
        affine = problem.owns_bias and self.affine is not False
        missing = (equations.output - equations.naive @ equations.mean) / max(equations.count, 1)
        return with_errors(equations, Readout(equations.naive, missing if affine else None), affine=affine)
