"""grail-plus: ridge towards plain pruning on the residual stream's target, with everything chosen on held-out rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import ClassVar, Literal

from optimum_grail.compensators import COMPENSATORS
from optimum_grail.compensators._norm import renormalised
from optimum_grail.core import papers
from optimum_grail.core.contracts import Compensator
from optimum_grail.core.linalg import RidgeScale
from optimum_grail.core.preset import Preset
from optimum_grail.core.problem import Compensation, GroupProblem, Need
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import Anchor, Family, NormalEquations
from optimum_grail.errors import ConfigError

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
FALLBACK_RIDGE = 1e-3
REHEARSED_RIDGE = 1e-2
"""A rehearsal has a quarter of the rows, which wants a stronger ridge than all of them."""


@dataclass(frozen=True)
class Form:
    """How a readout is fitted.

    Args:
        ridge: relative, see ``scale``.
        scale: of the ridge, see :func:`optimum_grail.core.linalg.factorise`.
        anchor: what the ridge pulls towards.
        affine: whether a bias is fitted.
        drift: whether any of the drift is corrected.
    """

    ridge: float
    scale: RidgeScale
    anchor: Anchor
    affine: bool
    drift: bool = True

    def fit(self, equations: NormalEquations) -> Family:
        """Readouts of this form."""
        return equations.fit(self.ridge, self.scale, self.anchor, self.affine)


PUBLISHED = Form(1e-3, "mean", "zero", affine=False, drift=False)
"""GRAIL (eq. 2) with its authors' ridge."""


@dataclass(frozen=True)
class Candidate:
    """One readout in the contest.

    Args:
        label: what made it.
        form: how it is fitted; ``None`` for plain pruning.
        ridge: the one really used.
        tau: drift strength.
        loss: on the rows it is judged by, relative to their variance, the mean over the trials.
    """

    label: Literal["fit", "plain", "batch-norm"]
    form: Form | None
    ridge: float
    tau: float
    loss: float | None


@dataclass(frozen=True)
class Trial:
    """Rows to fit on and others to judge on, seen from one reduction."""

    fit: NormalEquations
    judge: NormalEquations

    @property
    def scale(self) -> float:
        """What losses are divided by."""
        return max(self.judge.variance, 1e-300)


@COMPENSATORS.register
@dataclass(frozen=True)
class GrailPlus(Compensator):
    """Fit ``y* = W s + τ d`` from the kept features, anchored at plain pruning; ridge and ``τ`` by held-out rows.

    Plain pruning stands in the contest, so a group never leaves it for something worse on held-out rows; a BatchNorm
    after the consumer may be re-estimated if that helps there. The winner is refitted on all rows.

    Args:
        target: ``"residual"`` (drift of the residual stream), ``"dense"`` (the dense consumer's output) or ``"self"``.
        anchor: what the ridge pulls towards: ``"naive"`` (plain pruning) or ``"zero"``.
        ridge: ``"auto"`` or a positive number, relative to each kept feature's second moment.
        tau: drift strength in [0, 1], or ``"auto"``.
        affine: fit a bias; ``None``: where the consumer owns one.
        gate: what ridge, ``τ`` and plain pruning are judged on: ``"rows"``: held-out rows of all sources;
            ``"sources"``: where the calibration data has several, each of them by what is fitted on the others. On a
            broad mixture that costs more and gains nothing (docs/adr/0011).

    Raises:
        ConfigError: a value outside its range.
    """

    target: Literal["residual", "dense", "self"] = "residual"
    anchor: Literal["naive", "zero"] = "naive"
    ridge: float | Literal["auto"] = "auto"
    tau: float | Literal["auto"] = "auto"
    affine: bool | None = None
    gate: Literal["sources", "rows"] = "rows"
    refits_whole_groups: ClassVar[bool] = True
    paper: ClassVar[str | None] = papers.LIAR
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            name="grail-plus",
            summary="Greedy exact elimination, consumers refitted to the dense residual stream, one width per kind "
            "chosen by measured damage. The default.",
            paper="ours, on Tang et al. 2026 (GRAIL)",
            selector="obs",
            compensator="grail-plus",
            allocation="balanced",
            within_block="sequential",
            cost="five forward passes, a backward pass of an eighth of the data, elimination and solves per layer",
        ),
    )

    def __post_init__(self) -> None:
        if self.target not in ("residual", "dense", "self"):
            raise ConfigError(f"target is {self.target!r}; expected 'residual', 'dense' or 'self'.")
        if self.anchor not in ("naive", "zero"):
            raise ConfigError(f"anchor is {self.anchor!r}; expected 'naive' or 'zero'.")
        if self.gate not in ("sources", "rows"):
            raise ConfigError(f"gate is {self.gate!r}; expected 'sources' or 'rows'.")
        if self.ridge != "auto" and not (isinstance(self.ridge, (int, float)) and 0 < self.ridge < math.inf):
            raise ConfigError(f"ridge is {self.ridge!r}; expected 'auto' or a positive number, for example 1e-3.")
        if self.tau != "auto" and not (isinstance(self.tau, (int, float)) and 0 <= self.tau <= 1):
            raise ConfigError(f"tau is {self.tau!r}; expected 'auto' or a number from 0 to 1.")

    @property
    def wants_bias(self) -> bool:
        """Where ``affine`` is asked for outright."""
        return self.affine is True

    @property
    def solves(self) -> int:
        """One for every ridge that is tried, the losses on held-out rows, and the last one on all rows."""
        return len(RIDGES) + 5 if self.ridge == "auto" else 3

    def rehearsed(self) -> GrailPlus:
        """With one ridge: trying them takes as long with few rows as with many."""
        return replace(self, ridge=REHEARSED_RIDGE) if self.ridge == "auto" else self

    @property
    def needs(self) -> frozenset[Need]:
        """Second moments and their held-out part; the drift unless the target is the student itself."""
        drift: dict[str, frozenset[Need]] = {"residual": frozenset({"drift"}), "dense": frozenset({"dense"})}
        sources = frozenset[Need]({"sources"} if self.gate == "sources" else ())
        return frozenset[Need]({"gram", "held-out"}) | sources | drift.get(self.target, frozenset())

    def __call__(self, problem: GroupProblem, reduction: Reduction) -> Compensation:
        """The readout that wins on the rows it was not fitted on, refitted on all rows."""
        statistics = problem.measured
        subsets = [
            NormalEquations.of(problem.weight, subset.moments, subset.target, reduction)
            for subset in statistics.subsets
        ]
        affine = problem.owns_bias if self.affine is None else self.affine
        everything = reduce(add, subsets)
        candidates = [self._default(affine)]
        if len(subsets) > 1:
            forms = [*self._forms(affine), *((PUBLISHED,) if statistics.crossed else ())]
            candidates = _contest(problem, list(_trials(subsets, statistics.crossed)), forms, self.tau)
        winner = min(candidates, key=lambda candidate: candidate.loss or 0.0)
        plain = next((candidate.loss for candidate in candidates if candidate.label == "plain"), None)
        readout = _build(problem, everything, winner)
        scale = max(everything.variance, 1e-300)
        return Compensation(
            readout,
            {
                "plain_error": everything.loss(everything.plain) / scale,
                "fit_error": everything.loss(readout) / scale,
                "chosen": "published" if winner.form is PUBLISHED else winner.label,
                "ridge": winner.ridge,
                "tau": winner.tau,
                "held_error": winner.loss,
                "plain_held_error": plain,
                "affine": winner.form is not None and winner.form.affine,
            },
        )

    def _default(self, affine: bool) -> Candidate:
        """What is fitted where there are no rows to choose on."""
        ridge = FALLBACK_RIDGE if self.ridge == "auto" else float(self.ridge)
        form = Form(ridge, "diagonal", self.anchor, affine)
        return Candidate("fit", form, ridge, 1.0 if self.tau == "auto" else float(self.tau), None)

    def _forms(self, affine: bool) -> Iterator[Form]:
        for ridge in RIDGES if self.ridge == "auto" else (float(self.ridge),):
            yield Form(ridge, "diagonal", self.anchor, affine)


def _trials(subsets: Sequence[NormalEquations], crossed: bool) -> Iterator[Trial]:
    """Of several sources, every one is judged by what is fitted on all the others; else the second subset is judged
    by what is fitted on the first."""
    if not crossed:
        yield Trial(subsets[0], subsets[1])
        return
    for index, judge in enumerate(subsets):
        yield Trial(reduce(add, (subset for other, subset in enumerate(subsets) if other != index)), judge)


def _contest(
    problem: GroupProblem, trials: Sequence[Trial], forms: Sequence[Form], strength: float | Literal["auto"]
) -> list[Candidate]:
    """Plain pruning and readouts of all ``forms``, with their mean losses over the trials."""

    def mean(losses: Iterable[float]) -> float:
        """Of what each trial says."""
        return sum(losses) / len(trials)

    plain = mean(trial.judge.loss(trial.fit.plain) / trial.scale for trial in trials)
    candidates = [Candidate("plain", None, 0.0, 0.0, plain)]
    for form in forms:
        families = [form.fit(trial.fit) for trial in trials]
        losses = reduce(
            add, (f.losses(t.judge) / (t.scale * len(trials)) for f, t in zip(families, trials, strict=True))
        )
        tau = (losses.best if strength == "auto" else float(strength)) if form.drift else 0.0
        ridge = max(family.ridge for family in families)
        candidates.append(Candidate("fit", form, ridge, tau, losses.at(tau)))
        if problem.norm is not None:
            norm = problem.norm
            restored = mean(
                t.judge.loss(renormalised(f.at(tau), t.fit, norm)) / t.scale
                for f, t in zip(families, trials, strict=True)
            )
            candidates.append(Candidate("batch-norm", form, ridge, tau, restored))
    return candidates


def _build(problem: GroupProblem, equations: NormalEquations, winner: Candidate) -> Readout:
    if winner.form is None:
        return equations.plain
    readout = winner.form.fit(equations).at(winner.tau)
    if winner.label == "batch-norm" and problem.norm is not None:
        return renormalised(readout, equations, problem.norm)
    return readout
