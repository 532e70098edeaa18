"""GRAIL as published: one uncentred ridge solve on the compressed model's own features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.compensators import COMPENSATORS
from optimum_grail.compensators._diagnostics import with_errors
from optimum_grail.core.contracts import Compensator
from optimum_grail.core.preset import SOLVE, Preset
from optimum_grail.core.problem import Compensation, GroupProblem, Need
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import Anchor, NormalEquations
from optimum_grail.errors import ConfigError


@COMPENSATORS.register
@dataclass(frozen=True)
class Grail(Compensator):
    """``B = G Eᵀ (E G Eᵀ + λI)⁻¹``, ``W' = W B`` (GRAIL, eq. 2): self target, zero anchor, all rows, no gate, no bias.

    Args:
        ridge: ``λ`` relative to the mean of the kept features' second moments; the authors' default is 1e-3.
        anchor: what the ridge pulls towards: ``"zero"`` (the paper), or ``"naive"`` (plain pruning or folding), which
            is the weight update of the optimal brain surgeon on a damped Hessian: SlimGPT, ZipLM and OSSCAR end in
            ``W_P + W_D G_DP (G_PP + λI)⁻¹``.

    Raises:
        ConfigError: ``ridge`` is negative or not a number, or another ``anchor``.
    """

    ridge: float = 1e-3
    anchor: Anchor = "zero"
    refits_whole_groups: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            name="grail",
            summary="GRAIL as published: Wanda scores, every consumer refitted to the full features by ridge "
            "regression.",
            paper="Tang et al. 2026 (GRAIL)",
            selector="wanda",
            compensator="grail",
            cost=SOLVE,
        ),
    )

    def __post_init__(self) -> None:
        if not isinstance(self.ridge, (int, float)) or not 0 <= self.ridge < math.inf:
            raise ConfigError(f"grail ridge is {self.ridge!r}; expected a number of at least 0, for example 1e-3.")
        if self.anchor not in ("zero", "naive"):
            raise ConfigError(f"grail anchor is {self.anchor!r}; expected 'zero' or 'naive'.")

    def __call__(self, problem: GroupProblem, reduction: Reduction) -> Compensation:
        """The readout of the published formula."""
        equations = NormalEquations.of(problem.weight, problem.measured.moments, None, reduction)
        family = equations.fit(self.ridge, "mean", self.anchor, affine=False)
        return with_errors(equations, family.at(0.0), ridge=family.ridge)
