"""SparseGPT: group after group, weights to the right make up for those that go (Frantar and Alistarh 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from optimum_grail.core.pattern import LinearProblem, Pattern, PatternSelector, surgeon
from optimum_grail.patterns import PATTERNS
from optimum_grail.patterns._checks import check_damping

PAPER = """@inproceedings{frantar2023sparsegpt,
  title     = {SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot},
  author    = {Frantar, Elias and Alistarh, Dan},
  booktitle = {International Conference on Machine Learning},
  year      = {2023},
  note      = {arXiv:2301.00774}
}"""


@PATTERNS.register
@dataclass(frozen=True)
class Sparsegpt(PatternSelector):
    """As published, algorithm 1.

    Args:
        damping: ridge relative to the mean of the inputs' second moments, positive and finite.

    Raises:
        ConfigError: another ``damping``.
    """

    damping: float = 1e-2
    paper: ClassVar[str | None] = PAPER

    def __post_init__(self) -> None:
        check_damping("sparsegpt", self.damping)

    def __call__(self, problem: LinearProblem, pattern: Pattern) -> Tensor:
        """The weight that is left."""
        return surgeon(problem.weight, problem.damped(self.damping), pattern)
