"""SNIP: sensitivity of the whole loss to a factor on the unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.core.contracts import Selector
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.selectors import SELECTORS
from optimum_grail.selectors._gradients import gradients

PAPER = """@inproceedings{lee2019snip,
  title     = {{SNIP}: Single-Shot Network Pruning Based on Connection Sensitivity},
  author    = {Lee, Namhoon and Ajanthan, Thalaiyasingam and Torr, Philip H. S.},
  booktitle = {International Conference on Learning Representations},
  year      = {2019},
  note      = {arXiv:1810.02340}
}"""


@SELECTORS.register
@dataclass(frozen=True)
class Snip(Selector):
    """Keep the units of largest ``|Σ_b ∂L_b/∂m|``, ``m`` a factor on the unit (SNIP, Lee et al. 2019, eq. 5-6).

    For a factor on all of a unit's weights this is the paper's ``|Σ θ ∂L/∂θ|`` over them.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"mask-gradients"})
    paper: ClassVar[str | None] = PAPER

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to the ``keep`` units of largest score."""
        return Selection.by_score(gradients(problem, "mask").sum(0).abs(), keep)
