"""OWL: layers with many outliers lose less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.allocations._ratios import blocks_of, by_ratio
from optimum_grail.core.budget import Budget, WidthClass
from optimum_grail.core.contracts import Allocation
from optimum_grail.core.problem import Need
from optimum_grail.errors import ConfigError

PAPER = """@inproceedings{yin2024owl,
  title     = {Outlier Weighed Layerwise Sparsity ({OWL}): A Missing Secret Sauce for Pruning {LLMs} to High Sparsity},
  author    = {Yin, Lu and others},
  booktitle = {International Conference on Machine Learning},
  year      = {2024},
  note      = {arXiv:2310.05175}
}"""


@ALLOCATIONS.register
@dataclass(frozen=True)
class Owl(Allocation):
    """A layer's ratio differs from the mean one by up to ``limit``, the less the more outliers it has (Yin et al. 2024,
    "Outlier weighed layerwise sparsity").

    Outliers are the consumers' columns whose ``Σ_o |W_oh| · ‖s_h‖`` exceeds ``outlier`` times the mean of their layer.
    The share of them is scaled to [0, 1] over the layers and spread over ``2 limit`` around its mean.

    Args:
        outlier: how many times the mean an outlier is (``M`` in the paper).
        limit: largest deviation from the mean ratio (``λ`` in the paper), below one half.
    """

    outlier: float = 5.0
    limit: float = 0.08
    paper: ClassVar[str | None] = PAPER

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, most in (("outlier", self.outlier, float("inf")), ("limit", self.limit, 0.5)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < most:
                raise ConfigError(f"{name} is {value!r}; expected a positive number below {most}.")

    @property
    def needs(self) -> frozenset[Need]:
        """Weight times activation norm of every column."""
        return super().needs | {"outliers"}

    def __call__(self, classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
        """Widths of the layers' ratios, all shifted so that the budget is met."""
        blocks = blocks_of(classes)
        spread = self._spread(torch.stack([self._share(classes, indices) for indices in blocks.values()]))
        more = torch.empty(len(classes), dtype=torch.float64)
        for value, indices in zip(spread, blocks.values(), strict=True):
            more[indices] = value
        return by_ratio(classes, budget, lambda level: level - more)

    def _share(self, classes: Sequence[WidthClass], indices: Sequence[int]) -> Tensor:
        """Share of outliers among all columns of one layer."""
        columns = torch.cat([classes[index].signal("outliers").flatten() for index in indices])
        return (columns > self.outlier * columns.mean()).double().mean()

    def _spread(self, shares: Tensor) -> Tensor:
        """What each layer keeps beyond the mean."""
        width = shares.max() - shares.min()
        scaled = (shares - shares.min()) / width if width > 0 else torch.zeros_like(shares)
        return 2 * self.limit * (scaled - scaled.mean())
