"""Mask scale: one factor per kept unit, fitted to the dense residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from optimum_grail.compensators import COMPENSATORS
from optimum_grail.compensators._diagnostics import with_errors
from optimum_grail.core import papers
from optimum_grail.core.contracts import Compensator
from optimum_grail.core.problem import Compensation, GroupProblem, Need
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import NormalEquations
from optimum_grail.errors import ConfigError

LARGEST = 10.0
"""A group with a scale outside ±10 stays plain, as in the authors' code."""


@COMPENSATORS.register
@dataclass(frozen=True)
class MaskScale(Compensator):
    """``W'_u = a_u W_u`` for the kept units ``u``, ``a`` by least squares on the dense residual stream's target.

    Mask tuning of Kwon et al. 2022 (sec. 4.3): with ``N`` the Gram of the units' outputs and ``r`` the cross moments of
    what is missing, ``δ = a - 1`` minimises ``‖N δ - r‖² + damp² ‖δ‖²``, as the authors' LSMR does on the normal
    equations. Heads (units of several features) are fitted along with a constant, which is then left out. The target
    is the dense model; the paper's teacher is a less pruned one.

    Args:
        damp: pull towards scales of one; the authors' value is 1.

    Raises:
        ConfigError: ``damp`` is negative or not a number.
    """

    damp: float = 1.0
    refits_whole_groups: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"gram", "drift"})
    paper: ClassVar[str | None] = papers.KWON

    def __post_init__(self) -> None:
        if not isinstance(self.damp, (int, float)) or not 0 <= self.damp < float("inf"):
            raise ConfigError(f"mask-scale damp is {self.damp!r}; expected a number of at least 0, for example 1.")

    def __call__(self, problem: GroupProblem, reduction: Reduction) -> Compensation:
        """The rescaled columns; the plain ones if a scale is out of bounds."""
        statistics = problem.measured
        equations = NormalEquations.of(problem.weight, statistics.moments, statistics.target, reduction)
        if not reduction.slots:
            return with_errors(equations, equations.plain, chosen="plain")
        gram, cross = unit_equations(equations, reduction.slots, problem.span > 1)
        change = damped_solution(gram, cross - gram[:, : reduction.slots].sum(1), self.damp)
        scale = 1 + change[: reduction.slots]
        accepted = bool((scale.abs() <= LARGEST).all())
        weight = equations.naive
        if accepted:
            weight = weight * scale.repeat_interleave(problem.span)
        return with_errors(equations, Readout(weight), chosen="fit" if accepted else "plain")


def unit_equations(equations: NormalEquations, units: int, intercept: bool) -> tuple[Tensor, Tensor]:
    """Normal equations of one factor per unit, float64 ``[units, units]`` and ``[units]``; one more row and column for
    a constant that all outputs share, if ``intercept``."""
    naive, width = equations.naive, equations.naive.shape[1]
    span = width // units

    def per_unit(values: Tensor) -> Tensor:
        """Sums over the features of each unit."""
        return values.reshape(*values.shape[:-1], units, span).sum(-1)

    target = equations.cross if equations.drift_cross is None else equations.cross + equations.drift_cross
    gram = per_unit(per_unit((naive.T @ naive) * equations.gram).T).T
    cross = per_unit((naive * target).sum(0))
    if not intercept:
        return gram, cross
    wanted = equations.output if equations.drift is None else equations.output + equations.drift
    border = per_unit(naive.sum(0) * equations.mean)
    corner = border.new_tensor([float(len(naive) * equations.count)])
    gram = torch.cat([torch.cat([gram, border[:, None]], 1), torch.cat([border, corner])[None]])
    return gram, torch.cat([cross, wanted.sum()[None]])


def damped_solution(gram: Tensor, right: Tensor, damp: float) -> Tensor:
    """``argmin ‖N δ - r‖² + damp² ‖δ‖²`` for symmetric ``N``; directions that ``N`` does not see stay zero."""
    values, vectors = torch.linalg.eigh(gram)
    seen = values.abs() > 1e-12 * values.abs().max()
    inverse = torch.where(seen, values / (values.square() + damp**2), torch.zeros_like(values))
    solution: Tensor = vectors @ (inverse * (vectors.T @ right))
    return solution
