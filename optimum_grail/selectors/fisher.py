"""Fisher: empirical Fisher information of a mask on the units, rearranged within the group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from optimum_grail.core import papers
from optimum_grail.core.contracts import Selector
from optimum_grail.core.preset import Preset
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.selectors import SELECTORS
from optimum_grail.selectors._elimination import by_removal
from optimum_grail.selectors._gradients import gradients


@SELECTORS.register
@dataclass(frozen=True)
class Fisher(Selector):
    """Remove the units of least ``Σ_b (∂L_b/∂m)²``, then rearrange by the group's whole Fisher matrix.

    Kwon et al. 2022, "A Fast Post-Training Pruning Framework for Transformers", sec. 4.1-4.2, with the authors' greedy
    search: every kept unit in turn joins the dropped ones, and the one leaves them whose absence makes
    ``‖Σ_{h dropped} g_h‖²`` least.

    Args:
        rearrange: do the second step.
    """

    rearrange: bool = True
    needs: ClassVar[frozenset[Need]] = frozenset({"mask-gradients"})
    paper: ClassVar[str | None] = papers.KWON
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            name="fisher",
            summary="Units of least Fisher information go, wherever they are, then rearranged; kept ones rescaled to "
            "the dense model's residual stream.",
            paper="Kwon et al. 2022",
            selector="fisher",
            compensator="mask-scale",
            allocation="fisher",
            within_block="sequential",
            needs="calibration data; labels (--label-column), or the model's own predictions",
            cost="two backward passes, two forward passes, one small solve per layer",
        ),
    )

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to ``keep`` units."""
        rows = gradients(problem, "mask").T.cpu()
        importance = rows.square().sum(1)
        order = importance.argsort(stable=True)
        gone = problem.units - keep
        dropped = rearranged(rows, order, gone) if self.rearrange and 0 < gone < problem.units else order[:gone]
        return by_removal(problem.units, dropped[importance[dropped].argsort(stable=True)])


def rearranged(rows: Tensor, order: Tensor, count: int) -> Tensor:
    """The ``count`` dropped units, int64, after one pass over ``order`` (least important first); ``rows`` are the
    units' gradients ``[units, samples]``."""
    squares = rows.square().sum(1)
    dropped, total = order[:count], rows[order[:count]].sum(0)
    for unit in order[count:]:
        dropped, total = torch.cat([dropped, unit[None]]), total + rows[unit]
        # ‖total - g‖² up to ‖total‖², which is the same for all
        leaves = int((squares[dropped] - 2 * (rows[dropped] @ total)).argmin())
        total = total - rows[dropped[leaves]]
        dropped = torch.cat([dropped[:leaves], dropped[leaves + 1 :]])
    return dropped
