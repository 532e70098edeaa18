"""Magnitude: norms of the weights alone (Li et al. 2017, "Pruning Filters for Efficient ConvNets", L1 of a filter)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from optimum_grail.core.contracts import Selector
from optimum_grail.core.preset import SOLVE, Preset
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.errors import ConfigError
from optimum_grail.selectors import SELECTORS

PAPER = """@inproceedings{li2017pruning,
  title     = {Pruning Filters for Efficient {ConvNets}},
  author    = {Li, Hao and Kadav, Asim and Durdanovic, Igor and Samet, Hanan and Graf, Hans Peter},
  booktitle = {International Conference on Learning Representations},
  year      = {2017},
  note      = {arXiv:1608.08710}
}"""


@SELECTORS.register
@dataclass(frozen=True)
class Magnitude(Selector):
    """Keep the units of largest weight norm.

    Args:
        p: 1 for the sum of absolute values, 2 for the Euclidean norm.
        side: ``"producer"`` (rows that make the unit), ``"consumer"`` (columns that read it), or ``"coupled"`` (the
            product of both).

    Raises:
        ConfigError: another ``p`` or ``side``.
    """

    p: int = 1
    side: Literal["producer", "consumer", "coupled"] = "producer"
    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str | None] = PAPER
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            name="magnitude",
            summary="Plain pruning by weight norm; nothing is refitted.",
            paper="Li et al. 2017",
            selector="magnitude",
            compensator="none",
            needs="no data",
            cost="seconds",
        ),
        Preset(
            name="magnitude+grail",
            summary="Pruning by weight norm, every consumer refitted to the full features by ridge regression.",
            paper="Tang et al. 2026 (GRAIL)",
            selector="magnitude",
            compensator="grail",
            cost=SOLVE,
        ),
    )

    def __post_init__(self) -> None:
        if self.p not in (1, 2):
            raise ConfigError(f"magnitude p is {self.p!r}; expected 1 or 2.")
        if self.side not in ("producer", "consumer", "coupled"):
            raise ConfigError(f"magnitude side is {self.side!r}; expected 'producer', 'consumer' or 'coupled'.")

    def _norm(self, rows: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(rows, ord=self.p, dim=1)
        return norm

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to the ``keep`` units of largest norm."""
        columns = problem.weight.reshape(len(problem.weight), problem.units, -1).transpose(0, 1).flatten(1)
        rows = torch.cat([matrix.flatten(1) for matrix in problem.producers], 1) if problem.producers else columns
        score = {
            "producer": lambda: self._norm(rows),
            "consumer": lambda: self._norm(columns),
            "coupled": lambda: self._norm(rows) * self._norm(columns),
        }[self.side]()
        return Selection.by_score(score, keep)
