"""COMP: neurons by what they do for the condition of the matrix that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from optimum_grail.core.contracts import Selector
from optimum_grail.core.preset import Preset
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.selectors import SELECTORS
from optimum_grail.selectors._elimination import check_positive

PAPER = """@article{xu2025comp,
  title   = {Lightweight and Post-Training Structured Pruning for On-Device Large Lanaguage Models},
  author  = {Xu, Zihuai and Xu, Yang and Xu, Hongli and Liao, Yunming and Yao, Zhiwei and Xie, Zuan},
  journal = {arXiv preprint arXiv:2501.15255},
  year    = {2025}
}"""


@SELECTORS.register
@dataclass(frozen=True)
class Comp(Selector):
    """Keep the units whose loss would condition the consumer's map worst.

    COMP (Xu et al. 2025) removes whole layers, then neurons by "a matrix condition-based metric", then tunes a mask.
    Of the metric only that name is used here, so it is ours: with ``A = W diag(sqrt(E s²))``, the map as the data uses
    it, a unit's score is the rise of ``κ² = ‖A‖²_F ‖A⁺‖²_F`` when its columns leave the (damped) inverse,
    ``Δ tr M⁻¹ = tr((I - A_uᵀ M⁻¹ A_u)⁻¹ A_uᵀ M⁻² A_u)`` for ``M = A Aᵀ + λI``. Removing layers or sub-blocks is an
    allocation's business, the mask that of the compensator ``mask-scale``.

    Args:
        damping: ``λ`` relative to the mean of ``A Aᵀ``'s diagonal, positive and finite.

    Raises:
        ConfigError: ``damping`` is not a positive number.
    """

    damping: float = 1e-2
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    paper: ClassVar[str | None] = PAPER
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            name="comp",
            summary="Attention and FFNs of least influence go first, then units that the consumers' conditioning does "
            "not need; what stays is rescaled.",
            paper="Xu et al. 2025 (COMP), after its abstract",
            selector="comp",
            compensator="mask-scale",
            allocation="block-influence:drop=0.5,parts=sub-blocks",
            within_block="sequential",
            cost="three forward passes, one inverse per layer",
            works="everywhere; convolutions lose filters only",
        ),
    )

    def __post_init__(self) -> None:
        check_positive("comp", "damping", self.damping)

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to the ``keep`` units of largest score."""
        moments = problem.measured.moments
        scaled = problem.weight.to(moments.gram) * (moments.energy / max(moments.count, 1)).clamp(min=0).sqrt()
        scaled = scaled / scaled.square().sum(1).mean().sqrt().clamp(min=1e-150)  # mean of the diagonal is one
        matrix = scaled @ scaled.T
        matrix.diagonal().add_(self.damping)
        solved = torch.cholesky_solve(scaled, torch.linalg.cholesky(matrix))
        shape = (len(scaled), problem.units, problem.span)
        columns, lifted = (part.reshape(shape).permute(1, 2, 0) for part in (scaled, solved))
        left = torch.eye(problem.span).to(scaled) - columns @ lifted.transpose(1, 2)
        rise = torch.linalg.solve(left, lifted @ lifted.transpose(1, 2))
        return Selection.by_score(rise.diagonal(dim1=1, dim2=2).sum(1), keep)
