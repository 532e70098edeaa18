"""REAP: which experts of a mixture stay, by what their outputs weigh where the router sends tokens to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.core.contracts import Selector
from optimum_grail.core.preset import Preset
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.selectors import SELECTORS

PAPER = """@article{lasby2025reap,
  title   = {REAP the Experts: Why Pruning Prevails for One-Shot MoE compression},
  author  = {Lasby, Mike and Lazarevich, Ivan and Sinnadurai, Nish and Lie, Sean and Ioannou, Yani
             and Thangarasa, Vithursan},
  journal = {arXiv preprint arXiv:2510.13999},
  year    = {2025}
}"""


@SELECTORS.register
@dataclass(frozen=True)
class Reap(Selector):
    """Keep the experts of largest ``S_j``: the mean of ``g_j(x) ‖f_j(x)‖`` over the tokens sent to expert ``j``.

    ``g_j`` is the router's gate, ``f_j`` what the expert puts out (Lasby et al. 2025, eq. 9). An expert that no token
    was sent to has none.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"routing"})
    paper: ClassVar[str | None] = PAPER
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            name="reap",
            summary="Whole experts of a mixture go by what they put out where they are chosen; nothing is refitted. Of "
            "heads and channels, if some are asked to go too, Wanda's choice.",
            paper="Lasby et al. 2025 (REAP)",
            selector="wanda",
            compensator="none",
            expert_selector="reap",
            works="mixtures of experts",
        ),
    )

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to the ``keep`` experts of largest saliency."""
        routing = problem.routed
        return Selection.by_score(routing.outputs / routing.tokens.clamp(min=1), keep)
