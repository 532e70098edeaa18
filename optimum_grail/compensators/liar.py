"""LIAR: the dropped features are interpolated linearly from the kept ones, by weights and bias."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.compensators import COMPENSATORS
from optimum_grail.compensators._diagnostics import with_errors
from optimum_grail.core import papers
from optimum_grail.core.contracts import Compensator
from optimum_grail.core.preset import SOLVE, Preset
from optimum_grail.core.problem import Compensation, GroupProblem, Need
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import NormalEquations
from optimum_grail.errors import ConfigError


@COMPENSATORS.register
@dataclass(frozen=True)
class Liar(Compensator):
    """``x_D ≈ Q x_P + p`` by least squares; ``W' = W_P + W_D Q``, ``b' = b + W_D p`` (LIAR, Wang et al. 2024).

    Where the consumer owns no bias, ``Q`` is fitted without ``p``.

    Args:
        ridge: damping relative to each kept feature's variance, pulling towards plain pruning; the paper has none, and
            the default only keeps the solve stable.
        affine: fit ``p``; ``True`` gives consumers without a bias one first, where the stock config can say so;
            ``None``: where the consumer owns one.

    Raises:
        ConfigError: ``ridge`` is negative or not a number.
    """

    ridge: float = 1e-6
    affine: bool | None = None
    refits_whole_groups: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    paper: ClassVar[str | None] = papers.LIAR
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            name="liar",
            summary="What is dropped is interpolated from what is kept, by weights and bias. Takes any mask: here "
            "Wanda's.",
            paper="Wang et al. 2024 (LIAR)",
            selector="wanda",
            compensator="liar",
            within_block="sequential",
            cost=SOLVE,
            works="everywhere; with a bias term where consumers own one (affine=True adds them to a LLaMA)",
        ),
    )

    def __post_init__(self) -> None:
        if not isinstance(self.ridge, (int, float)) or not 0 <= self.ridge < math.inf:
            raise ConfigError(f"liar ridge is {self.ridge!r}; expected a number of at least 0, for example 1e-6.")

    @property
    def wants_bias(self) -> bool:
        """Where ``affine`` is asked for outright."""
        return self.affine is True

    def __call__(self, problem: GroupProblem, reduction: Reduction) -> Compensation:
        """The readout that interpolates what is missing."""
        equations = NormalEquations.of(problem.weight, problem.measured.moments, None, reduction)
        affine = problem.owns_bias and self.affine is not False
        family = equations.fit(self.ridge, "diagonal", "naive", affine)
        return with_errors(equations, family.at(0.0), ridge=family.ridge, affine=affine)
