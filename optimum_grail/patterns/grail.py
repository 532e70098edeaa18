"""Ours: the surgeon's choice, then all weights that stay fitted together to what the dense layer puts out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from optimum_grail.core.pattern import LinearProblem, Pattern, PatternSelector, settled, strengths, surgeon
from optimum_grail.errors import ConfigError
from optimum_grail.patterns import PATTERNS
from optimum_grail.patterns._checks import check_damping
from optimum_grail.patterns.sparsegpt import PAPER

SHARES = (0.0, 0.5, 1.0)
"""Strengths of the drift that compete."""


@PATTERNS.register
@dataclass(frozen=True)
class Grail(PatternSelector):
    """The mask is SparseGPT's, of the layer that would make up for none, half or all of what the layers before it have
    lost; the weights that stay are then fitted together, where SparseGPT's pass can only use those to the right. Of
    these and of SparseGPT's own result, what does best on held-out rows.

    Args:
        damping: ridge relative to the mean of the inputs' second moments, positive and finite.
        rounds: steps of conjugate gradients, at least 1.

    Raises:
        ConfigError: an option out of its range.
    """

    damping: float = 1e-2
    rounds: int = 30
    paper: ClassVar[str | None] = PAPER

    def __post_init__(self) -> None:
        check_damping("grail", self.damping)
        if not isinstance(self.rounds, int) or self.rounds < 1:
            raise ConfigError(f"grail rounds is {self.rounds!r}; expected a whole number of at least 1.")

    def __call__(self, problem: LinearProblem, pattern: Pattern) -> Tensor:
        """The weight that is left."""
        damped, found = problem.damped(self.damping), list[Tensor]()
        for share, wanted in strengths(problem, damped, SHARES):
            plain = surgeon(wanted, damped, pattern)
            found += [plain] if share == 0 else []
            found.append(settled(plain, wanted, damped, pattern.best(plain.abs()) & (plain != 0), self.rounds))
        return min(found, key=problem.error)
