"""Folding: similar units are merged into their mean instead of dropped."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from optimum_grail.core.clustering import kmeans, ward
from optimum_grail.core.contracts import Selector
from optimum_grail.core.preset import Preset
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.core.reduction import Reduction
from optimum_grail.errors import ConfigError
from optimum_grail.selectors import SELECTORS

PAPER = """@inproceedings{wang2025folding,
  title     = {Forget the Data and Fine-Tuning! Just Fold the Network to Compress},
  author    = {Wang, Dong and {\\v{S}}iki{\\'c}, Haris and Thiele, Lothar and Saukh, Olga},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  note      = {arXiv:2502.10216}
}"""


@SELECTORS.register
@dataclass(frozen=True)
class Folding(Selector):
    """Cluster the units by their weights; producers become cluster means, consumers' columns are summed.

    Model folding (Wang et al. 2025) by k-means, or by Ward's criterion as its recipe for language models. A unit is a
    point: the rows that make it, as the producers hold them, beside the columns that read it.

    Args:
        method: ``"kmeans"`` (one k-means++ start) or ``"ward"`` (no randomness).
        features: what a point consists of: ``"producer"`` rows, ``"consumer"`` columns, or ``"both"``.

    Raises:
        ConfigError: another ``method`` or ``features``.
    """

    method: Literal["kmeans", "ward"] = "kmeans"
    features: Literal["both", "producer", "consumer"] = "both"
    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str | None] = PAPER
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            name="folding",
            summary="Similar units are merged instead of dropped, their consumers' columns summed.",
            paper="Wang et al. 2025 (model folding)",
            selector="folding",
            compensator="none",
            needs="no data",
            cost="one distance matrix per layer",
        ),
    )

    def __post_init__(self) -> None:
        if self.method not in ("kmeans", "ward"):
            raise ConfigError(f"folding method is {self.method!r}; expected 'kmeans' or 'ward'.")
        if self.features not in ("both", "producer", "consumer"):
            raise ConfigError(f"folding features is {self.features!r}; expected 'both', 'producer' or 'consumer'.")

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Fold ``problem`` to ``keep`` clusters."""
        gram = self._gram(problem)
        if self.method == "ward":
            return Selection(Reduction.fold(ward(gram, keep)))
        generator = torch.Generator().manual_seed(problem.seed + zlib.crc32(problem.name.encode()))
        return Selection(Reduction.fold(kmeans(gram, keep, generator)))

    def _gram(self, problem: GroupProblem) -> Tensor:
        """Inner products of the units' points, ``[units, units]``; summed part by part to save memory."""
        columns = problem.weight.reshape(len(problem.weight), problem.units, -1).transpose(0, 1).flatten(1)
        rows = [matrix.flatten(1) for matrix in problem.producers] or [columns]
        parts = {"producer": rows, "consumer": [columns], "both": [*rows, columns]}[self.features]
        return torch.stack([part @ part.T for part in parts]).sum(0)
