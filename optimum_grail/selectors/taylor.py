"""Taylor: first-order estimate of what the loss gains or loses without a unit, batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.core.contracts import Selector
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.selectors import SELECTORS
from optimum_grail.selectors._gradients import gradients

PAPER = """@inproceedings{molchanov2017pruning,
  title     = {Pruning Convolutional Neural Networks for Resource Efficient Inference},
  author    = {Molchanov, Pavlo and Tyree, Stephen and Karras, Tero and Aila, Timo and Kautz, Jan},
  booktitle = {International Conference on Learning Representations},
  year      = {2017},
  note      = {arXiv:1611.06440}
}"""


@SELECTORS.register
@dataclass(frozen=True)
class Taylor(Selector):
    """Keep the units of largest ``mean_b |∂L_b/∂m|``, ``m`` a factor on the unit (Molchanov et al. 2017, eq. 7-8)."""

    needs: ClassVar[frozenset[Need]] = frozenset({"mask-gradients"})
    paper: ClassVar[str | None] = PAPER

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to the ``keep`` units of largest score."""
        return Selection.by_score(gradients(problem, "mask").abs().mean(0), keep)
