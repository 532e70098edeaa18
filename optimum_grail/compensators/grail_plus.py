"""grail-plus: ridge towards plain pruning on the residual stream's target, with everything chosen on held-out rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from optimum_grail.compensators import COMPENSATORS
from optimum_grail.compensators._norm import renormalised
from optimum_grail.core import papers
from optimum_grail.core.contracts import Compensator
from optimum_grail.core.preset import Preset
from optimum_grail.core.problem import Compensation, GroupProblem, Need
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import Family, NormalEquations
from optimum_grail.errors import ConfigError

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
FALLBACK_RIDGE = 1e-3


@dataclass(frozen=True)
class Candidate:
    """One readout in the contest: what made it, and its loss on the held-out rows relative to their variance."""

    label: Literal["fit", "plain", "batch-norm"]
    ridge: float
    tau: float
    loss: float | None


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

    Raises:
        ConfigError: a value outside its range.
    """

    target: Literal["residual", "dense", "self"] = "residual"
    anchor: Literal["naive", "zero"] = "naive"
    ridge: float | Literal["auto"] = "auto"
    tau: float | Literal["auto"] = "auto"
    affine: bool | None = None
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
            cost="four forward passes and short ones per layer, elimination and solves per layer",
        ),
    )

    def __post_init__(self) -> None:
        if self.target not in ("residual", "dense", "self"):
            raise ConfigError(f"target is {self.target!r}; expected 'residual', 'dense' or 'self'.")
        if self.anchor not in ("naive", "zero"):
            raise ConfigError(f"anchor is {self.anchor!r}; expected 'naive' or 'zero'.")
        if self.ridge != "auto" and not (isinstance(self.ridge, (int, float)) and 0 < self.ridge < math.inf):
            raise ConfigError(f"ridge is {self.ridge!r}; expected 'auto' or a positive number, for example 1e-3.")
        if self.tau != "auto" and not (isinstance(self.tau, (int, float)) and 0 <= self.tau <= 1):
            raise ConfigError(f"tau is {self.tau!r}; expected 'auto' or a number from 0 to 1.")

    @property
    def wants_bias(self) -> bool:
        """Where ``affine`` is asked for outright."""
        return self.affine is True

    @property
    def needs(self) -> frozenset[Need]:
        """Second moments and their held-out part; the drift unless the target is the student itself."""
        drift: dict[str, frozenset[Need]] = {"residual": frozenset({"drift"}), "dense": frozenset({"dense"})}
        return frozenset[Need]({"gram", "held-out"}) | drift.get(self.target, frozenset())

    def __call__(self, problem: GroupProblem, reduction: Reduction) -> Compensation:
        """The readout that wins on the held-out rows, refitted on all rows."""
        statistics = problem.measured
        fit = NormalEquations.of(problem.weight, statistics.fit, statistics.fit_target, reduction)
        affine = problem.owns_bias if self.affine is None else self.affine
        everything, candidates = fit, [self._default()]
        if statistics.held is not None and statistics.held.count:
            held = NormalEquations.of(problem.weight, statistics.held, statistics.held_target, reduction)
            everything, candidates = fit + held, self._contest(problem, fit, held, affine)
        winner = min(candidates, key=lambda candidate: candidate.loss or 0.0)
        plain = next((candidate.loss for candidate in candidates if candidate.label == "plain"), None)
        readout = self._build(problem, everything, winner, affine)
        scale = max(everything.variance, 1e-300)
        return Compensation(
            readout,
            {
                "plain_error": everything.loss(everything.plain) / scale,
                "fit_error": everything.loss(readout) / scale,
                "chosen": winner.label,
                "ridge": winner.ridge,
                "tau": winner.tau,
                "held_error": winner.loss,
                "plain_held_error": plain,
                "affine": affine and winner.label != "plain",
            },
        )

    def _default(self) -> Candidate:
        """What is fitted where there are no held-out rows to choose on."""
        ridge = FALLBACK_RIDGE if self.ridge == "auto" else float(self.ridge)
        return Candidate("fit", ridge, 1.0 if self.tau == "auto" else float(self.tau), None)

    def _contest(
        self, problem: GroupProblem, fit: NormalEquations, held: NormalEquations, affine: bool
    ) -> list[Candidate]:
        """All candidates, fitted on ``fit``, with their losses on ``held``."""
        scale = max(held.variance, 1e-300)
        candidates = [Candidate("plain", 0.0, 0.0, held.loss(fit.plain) / scale)]
        for family in self._families(fit, affine):
            tau = family.best_tau(held) if self.tau == "auto" else float(self.tau)
            readout = family.at(tau)
            candidates.append(Candidate("fit", family.ridge, tau, held.loss(readout) / scale))
            if problem.norm is not None:
                restored = renormalised(readout, fit, problem.norm)
                candidates.append(Candidate("batch-norm", family.ridge, tau, held.loss(restored) / scale))
        return candidates

    def _families(self, equations: NormalEquations, affine: bool) -> Iterator[Family]:
        for ridge in RIDGES if self.ridge == "auto" else (float(self.ridge),):
            yield equations.fit(ridge, "diagonal", self.anchor, affine)

    def _build(self, problem: GroupProblem, equations: NormalEquations, winner: Candidate, affine: bool) -> Readout:
        if winner.label == "plain":
            return equations.plain
        readout = equations.fit(winner.ridge, "diagonal", self.anchor, affine).at(winner.tau)
        if winner.label == "batch-norm" and problem.norm is not None:
            return renormalised(readout, equations, problem.norm)
        return readout
