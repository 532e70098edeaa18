"""What all error curves share: one greedy elimination of every group on its dense statistics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from optimum_grail.core.elimination import eliminate
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.problem import GroupProblem
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import NormalEquations
from optimum_grail.signals._signal import Signal, Tensors, Visit, Work
from optimum_grail.streams.masking import masked

DAMPING = 1e-3
RIDGE = 1e-3
SOLVES = 3
"""Solves that an elimination costs."""


@dataclass(frozen=True)
class Thinned:
    """A group and its greedy elimination.

    Args:
        group: the group.
        problem: its numbers.
        order: removal order, int64.
        errors: float64 ``[units + 1]``; ``errors[t]`` is the error after ``t`` removals, relative to that of dropping
            everything.
    """

    group: ChannelGroup
    problem: GroupProblem
    order: Tensor
    errors: Tensor

    @classmethod
    def of(cls, group: ChannelGroup, problem: GroupProblem) -> Thinned:
        """Eliminate all units of ``group``."""
        measured, affine = problem.measured, problem.owns_bias  # the matrix itself has no name here, so that it may go
        run = eliminate(problem.weight, measured.moments.covariance(affine), problem.units, problem.units - 1, DAMPING)
        errors = torch.cat([run.errors / max(run.total, 1e-300), torch.ones(1, dtype=torch.float64)])
        return cls(group, problem, run.order, errors)

    def damage(self, visit: Visit, part: int) -> tuple[float, float]:
        """The error at one ``part``-th of the units, and what the loss rises by with the group pruned to that and
        compensated."""
        keep, reduction = self._pruned(part)
        with masked(visit.dense.model, self.group, self.problem, reduction, self._compensated(reduction)):
            return float(self.errors[self.problem.units - keep]), max(visit.damage(), 0.0)

    def residual(self, part: int) -> tuple[float, Tensor]:
        """The error at one ``part``-th of the units, and what the consumer's matrix lacks then at full width, the group
        compensated: float64 ``[O, F]``; times a row of features it is that row's error."""
        keep, reduction = self._pruned(part)
        lacking = self.problem.weight.clone()
        columns = (reduction.kept[:, None] * self.problem.span + torch.arange(self.problem.span)).flatten()
        lacking[:, columns.to(lacking.device)] -= self._compensated(reduction).weight
        return float(self.errors[self.problem.units - keep]), lacking

    def _pruned(self, part: int) -> tuple[int, Reduction]:
        units = self.problem.units
        keep = max(units // part, 1)
        stay = torch.ones(units, dtype=torch.bool)
        stay[self.order[: units - keep]] = False
        return keep, Reduction.prune(units, torch.nonzero(stay).flatten())

    def _compensated(self, reduction: Reduction) -> Readout:
        equations = NormalEquations.of(self.problem.weight, self.problem.measured.moments, None, reduction)
        return equations.fit(RIDGE, "diagonal", "naive", self.problem.owns_bias).at(0.0)


@dataclass(frozen=True)
class CurveSignal(Signal, ABC):
    """Of every group the error curve of one greedy elimination, its order, and how much the calibration loss rises per
    unit of error; what :class:`optimum_grail.survey.findings.Curve` is made of: ``NAME/errors``, ``NAME/order`` and
    ``NAME/sensitivity``."""

    moments: ClassVar[bool] = True
    finds: ClassVar[str | None] = "curves"

    @abstractmethod
    def scaled(self, visit: Visit, thinned: Thinned, found: Tensors) -> tuple[Tensor, float]:
        """The errors of a group as they count, and the sensitivity they are to be multiplied by."""

    def block(self, visit: Visit, sums: Tensors, found: Tensors) -> Tensors:
        """The curves of the block's groups."""
        curves: dict[str, Tensor] = {}
        for group in visit.groups:
            thinned = Thinned.of(group, visit.problems[group.name])
            errors, sensitivity = self.scaled(visit, thinned, found)
            curves[f"{group.name}/errors"] = errors
            curves[f"{group.name}/order"] = thinned.order
            curves[f"{group.name}/sensitivity"] = torch.tensor(sensitivity, dtype=torch.float64)
        return curves

    def cost(self, work: Work) -> float:
        """An elimination of every group."""
        return SOLVES * work.solve
