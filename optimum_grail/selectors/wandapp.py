"""Wanda++, structured: Wanda's score with the gradient of the block's own output added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.core.contracts import Selector
from optimum_grail.core.preset import Preset
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.errors import ConfigError
from optimum_grail.selectors import SELECTORS
from optimum_grail.selectors._elimination import check_positive
from optimum_grail.selectors._gradients import gradients

PAPER = """@inproceedings{yang2025wandapp,
  title     = {Wanda++: Pruning Large Language Models via Regional Gradients},
  author    = {Yang, Yifan and others},
  booktitle = {Findings of the Association for Computational Linguistics},
  year      = {2025},
  note      = {arXiv:2503.04992}
}"""


@SELECTORS.register
@dataclass(frozen=True)
class Wandapp(Selector):
    """Keep the units of largest ``Σ_h mean_o (α G_oh + ‖s_h‖) |W_oh|`` over their features ``h``.

    The regional gradient score of Wanda++ (Yang et al. 2025): ``G`` is the gradient of ``‖f(x)‖₂``, ``f`` the block,
    and ``‖s_h‖`` the feature's Euclidean norm over the rows of a sample, both as root mean squares over the samples;
    here as roots of sums over them, which ranks the same.

    Args:
        alpha: weight ``α`` of the gradients, positive and finite.
        rounds: rounds of regional optimisation, which tunes each block towards what it put out before its units went,
            after any readout; 0 for none.

    Raises:
        ConfigError: a value outside its range.
    """

    alpha: float = 100.0
    rounds: int = 0
    needs: ClassVar[frozenset[Need]] = frozenset({"gram", "block-gradients"})
    paper: ClassVar[str | None] = PAPER
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            name="wandapp",
            summary="Wanda with gradients of each block's output, and five rounds that tune the block towards its dense"
            " output.",
            paper="Yang et al. 2025 (Wanda++), structured",
            selector="wandapp:rounds=5",
            compensator="none",
            cost="one forward pass, six backward passes per block",
        ),
        Preset(
            name="wandapp+grail",
            summary="Wanda++ with every consumer refitted before the five rounds, so that neither undoes the other.",
            paper="Tang et al. 2026 (GRAIL)",
            selector="wandapp:rounds=5",
            compensator="grail",
            cost="one forward pass, six backward passes per block, one solve per layer",
        ),
    )

    def __post_init__(self) -> None:
        check_positive("wandapp", "alpha", self.alpha)
        if not isinstance(self.rounds, int) or isinstance(self.rounds, bool) or self.rounds < 0:
            raise ConfigError(f"wandapp rounds is {self.rounds!r}; expected a whole number of at least 0.")

    @property
    def tuning_rounds(self) -> int:
        """The option ``rounds``."""
        return self.rounds

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to the ``keep`` units of largest score."""
        norm = problem.measured.moments.energy.clamp(min=0).sqrt()
        regional = self.alpha * gradients(problem, "block").to(norm) + norm
        score = (regional * problem.weight.to(norm).abs()).mean(0)
        return Selection.by_score(problem.per_unit(score), keep)
