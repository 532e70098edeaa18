"""Schur: units that the others do not predict, by pivoted Cholesky or by conditional variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from optimum_grail.core.contracts import Selector
from optimum_grail.core.elimination import damped_inverse_
from optimum_grail.core.group_elimination import columns_of, diagonal_blocks
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.errors import ConfigError
from optimum_grail.selectors import SELECTORS
from optimum_grail.selectors._elimination import by_removal, check_positive

ROUNDING = 1e-12
"""Eigenvalues of a pivot below this fraction of the largest second moment say nothing."""


@SELECTORS.register
@dataclass(frozen=True)
class Schur(Selector):
    """Keep the units with the largest Schur complement, centred where the consumer owns a bias.

    Looks at the features alone, not at the weights that read them.

    Args:
        method: ``"pivoted"`` picks, one after the other, the unit of largest second moment given those picked so far
            (pivoted Cholesky, column subset selection); ``"conditional"`` scores each unit once by the trace of its
            second moment given all others, ``tr((Q_SS)⁻¹)`` with ``Q`` the inverse of the damped Gram.
        damping: ridge of the inverse relative to each feature's second moment, positive and finite.

    Raises:
        ConfigError: another ``method``, or ``damping`` is not a positive number.
    """

    method: Literal["pivoted", "conditional"] = "pivoted"
    damping: float = 1e-3
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})

    def __post_init__(self) -> None:
        if self.method not in ("pivoted", "conditional"):
            raise ConfigError(f"schur method is {self.method!r}; expected 'pivoted' or 'conditional'.")
        check_positive("schur", "damping", self.damping)

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to ``keep`` units."""
        gram = problem.measured.moments.covariance(problem.owns_bias)
        if self.method == "pivoted":
            picked, rest = pivots(gram, problem.units, keep)
            return by_removal(problem.units, torch.cat([rest, picked.flip(0)])[: problem.units - keep])
        inverse = damped_inverse_(gram.clone(), self.damping)
        blocks = torch.linalg.inv(diagonal_blocks(inverse, problem.units))
        return Selection.by_score(blocks.diagonal(dim1=1, dim2=2).sum(1), keep)


def pivots(gram: Tensor, units: int, count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` pivots of a Cholesky factorisation by units, and the others, least residual first; int64."""
    span = len(gram) // units
    residual = gram.diagonal().clone()
    floor = ROUNDING * float(residual.max())
    factor = gram.new_zeros(count * span, len(gram))
    picked, taken = [], torch.zeros(units, dtype=torch.bool, device=gram.device)
    for step in range(count):
        score = residual.reshape(units, span).sum(1).masked_fill(taken, -torch.inf)
        unit = score.argmax()
        taken[unit] = True
        picked.append(int(unit))
        strip, done = columns_of(unit[None], span), factor[: step * span]
        rows = gram[strip] - done[:, strip].T @ done
        values, vectors = torch.linalg.eigh(rows[:, strip])
        scale = torch.where(values > floor, values, torch.inf).rsqrt()
        new = factor[step * span : (step + 1) * span] = (vectors * scale).T @ rows
        residual = (residual - new.square().sum(0)).clamp(min=0)
    score = residual.reshape(units, span).sum(1)
    rest = [unit for unit in score.argsort(stable=True).tolist() if not taken[unit]]
    return torch.tensor(picked, dtype=torch.int64), torch.tensor(rest, dtype=torch.int64)
