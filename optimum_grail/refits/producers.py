"""Producers: what stays of a layer is moved to where its consumer needs it, by a few Gauss-Newton steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from optimum_grail.core.contracts import Refit
from optimum_grail.core.gauss_newton import Step, moved
from optimum_grail.core.moments import MomentSums, TargetSums
from optimum_grail.core.problem import Need
from optimum_grail.core.producers import Changes, ProducerProblem, Refitted, Rows
from optimum_grail.core.products import Product
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import NormalEquations
from optimum_grail.errors import ConfigError
from optimum_grail.refits import REFITS

LENGTHS = (1.0, 0.5)
"""Of a step, tried one after the other: what a step does is not quite what it does to first order."""
FEWEST = 64
"""Outputs of the consumer, to fit on and to judge by, without which nothing is changed."""
CHUNK = 1024
"""Rows, or images, that go into the sums together."""
LEAST = 1e-3
"""Fraction of the held-out error that a step has to take away."""


@REFITS.register
@dataclass(frozen=True)
class Producers(Refit):
    """Move the producers of the units that stay, together with the consumer, towards the consumer's target.

    The consumer's ridge reaches all that a linear map of the kept features can; what is left can only come from the
    features themselves. Every round is one Gauss-Newton step for all producers of a layer at once, as long as held-out
    rows want it, then a ridge for the consumer; it counts only if the error on held-out rows falls, else half of it is
    tried.

    Args:
        rounds: most steps per layer.
        iterations: of conjugate gradients per step.
        rows: most calibration rows (images for convolutions) that a step is fitted on, drawn from all batches.
        damping: what keeps a step short, relative to what the change does to the output.
        ridge: of the consumer between the steps, relative.

    Raises:
        ConfigError: a value outside its range.
    """

    rounds: int = 1
    iterations: int = 8
    rows: int = 32768
    damping: float = 0.3
    ridge: float = 1e-3

    def __post_init__(self) -> None:
        for name, count in (("rounds", self.rounds), ("iterations", self.iterations), ("rows", self.rows)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ConfigError(f"{name} is {count!r}; expected a whole number of at least 1.")
        for option, value in (("damping", self.damping), ("ridge", self.ridge)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ConfigError(f"{option} is {value!r}; expected a positive number, for example 0.5.")

    @property
    def needs(self) -> frozenset[Need]:
        """Held-out rows, and what the consumer should put out."""
        return frozenset[Need]({"gram", "held-out"})

    @property
    def most_rows(self) -> int:
        """As asked."""
        return self.rows

    @property
    def looks(self) -> float:
        """Once before, and once or twice in every round."""
        return 1 + 1.5 * self.rounds

    @property
    def products(self) -> float:
        """Every iteration of every round."""
        return float(self.rounds * self.iterations)

    def __call__(self, problem: ProducerProblem) -> Refitted:
        """The changes that did best on held-out rows."""
        fit, judge = problem.look(None)
        if min(rows.target.numel() for rows in (fit, judge)) < FEWEST * len(problem.weight):
            return Refitted(None, 1.0, 1.0)
        best = self._readout(problem, problem.weight, fit, judge, None)
        start = best.error
        for _ in range(self.rounds):
            found = self._stepped(problem, best)
            if found is None:
                break
            best = found
        return Refitted(best.changes, start, best.error)

    def _stepped(self, problem: ProducerProblem, best: _Fitted) -> _Fitted | None:
        """What is better than ``best``, a step further; ``None``: nothing."""
        direction = self._direction(problem, best)
        for length in LENGTHS if direction is not None else ():
            changes = [length * part for part in direction or ()]
            if best.changes is not None:
                changes = [before + part for before, part in zip(best.changes, changes, strict=True)]
            found = self._readout(problem, best.weight, *problem.look(changes), changes)
            if found.error < (1 - LEAST) * best.error:
                return found
        return None

    def _direction(self, problem: ProducerProblem, best: _Fitted) -> Changes | None:
        """The step that promises most on held-out rows: where on their path conjugate gradients stop, and how far the
        step goes, is what these say; ``None`` where they say that it should not be made."""
        step = Step.of(best.fit, problem.produce, problem.consume, best.weight, self.damping)
        missing = best.residual(problem.consume, best.judge)
        gain, direction = 0.0, None
        for changes in step.path(best.residual(problem.consume, best.fit), self.iterations):
            effect = moved(best.judge, problem.produce, problem.consume, best.weight, changes)
            inner, norm = float((missing * effect).sum()), float(effect.square().sum())
            length = min(max(inner / max(norm, 1e-30), 0.0), 1.0)
            promised = length * (2 * inner - length * norm)
            if promised < gain:
                break  # from here on the path leads to what these rows alone say
            gain, direction = promised, [length * change for change in changes]
        return direction if gain > 0 else None

    def _readout(
        self, problem: ProducerProblem, weight: Tensor, fit: Rows, judge: Rows, changes: Changes | None
    ) -> _Fitted:
        """The consumer refitted on ``fit``, starting from ``weight``, and its error on ``judge``."""
        equations = _equations(problem.consume, weight, fit)
        readout = equations.fit(self.ridge, "diagonal", "naive", problem.affine).at(1.0)
        judged = _equations(problem.consume, weight, judge)
        error = judged.loss(readout) / max(judged.variance, 1e-300)
        return _Fitted(fit, judge, readout.weight.to(weight.dtype).reshape(weight.shape), readout, error, changes)


@dataclass(frozen=True)
class _Fitted:
    """A consumer fitted to some changes.

    Args:
        fit: the rows it was fitted on.
        judge: those that are held out.
        weight: in the consumer's shape.
        readout: as a matrix, with its bias.
        error: on held-out rows.
        changes: of the producers.
    """

    fit: Rows
    judge: Rows
    weight: Tensor
    readout: Readout
    error: float
    changes: Changes | None

    def residual(self, consume: Product, rows: Rows) -> Tensor:
        """What its output lacks on ``rows``."""
        missing = rows.target - consume(rows.features, self.weight)
        if self.readout.bias is None:
            return missing
        return missing - consume.spread(self.readout.bias.to(missing.dtype), missing)


def _equations(consume: Product, weight: Tensor, rows: Rows) -> NormalEquations:
    """The normal equations of a consumer on ``rows``, seen from ``weight``."""
    matrix = weight.flatten(1)
    moments = MomentSums.zero(matrix.shape[1], matrix.device)
    target = TargetSums.zero(len(matrix), matrix.shape[1], matrix.device)
    for features, wanted in zip(rows.features.split(CHUNK), rows.target.split(CHUNK), strict=True):
        seen = consume.rows(features)
        moments.add_(seen)
        target.add_(consume.outputs(wanted) - seen @ matrix.T, seen)
    whole = Reduction.keep_all(matrix.shape[1])
    return NormalEquations.of(matrix.double(), moments.taken(), target.taken(), whole)
