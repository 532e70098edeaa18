"""Wanda, structured: mean absolute consumer weight times the feature's root mean square (Sun et al. 2023, eq. 1; the
structured form Wanda-SP is that of the FLAP repository)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.core.contracts import Selector
from optimum_grail.core.preset import SOLVE, Preset
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.selectors import SELECTORS

PAPER = """@inproceedings{sun2024wanda,
  title     = {A Simple and Effective Pruning Approach for Large Language Models},
  author    = {Sun, Mingjie and Liu, Zhuang and Bair, Anna and Kolter, J. Zico},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  note      = {arXiv:2306.11695}
}"""


@SELECTORS.register
@dataclass(frozen=True)
class Wanda(Selector):
    """Keep the units of largest ``Σ_h mean_o|W_oh| · sqrt(E s_h²)`` over their features ``h``."""

    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    paper: ClassVar[str | None] = PAPER
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            name="wanda",
            summary="Plain pruning by weight times activation norm; nothing is refitted.",
            paper="Sun et al. 2024 (Wanda), structured as in FLAP",
            selector="wanda",
            compensator="none",
        ),
        Preset(
            name="wanda+grail",
            summary="Wanda's selection, every consumer refitted to the full features by ridge regression; the same as "
            "grail.",
            paper="Tang et al. 2026 (GRAIL)",
            selector="wanda",
            compensator="grail",
            cost=SOLVE,
        ),
    )

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to the ``keep`` units of largest score."""
        moments = problem.measured.moments
        norm = (moments.energy / max(moments.count, 1)).clamp(min=0).sqrt()
        score = problem.weight.to(norm).abs().mean(0) * norm
        return Selection.by_score(problem.per_unit(score), keep)
