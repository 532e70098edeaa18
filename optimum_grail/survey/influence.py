"""How much a block changes its input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optimum_grail.streams.probe import real_rows, rows_of


@dataclass
class Influence:
    """``1 - mean cos(input, output)`` over the real rows (Men et al. 2024, "ShortGPT", eq. 1)."""

    total: float = 0.0
    count: int = 0

    def add(self, before: Tensor, after: Tensor, mask: Tensor | None) -> None:
        """Add one batch; ``mask`` ``[B, R]`` is non-zero on real rows. A block that changes the shape has cosine 0."""
        if before.shape != after.shape:
            self.count += 1
            return
        cosines = torch.cosine_similarity(rows_of(before).float(), rows_of(after).float(), dim=-1)
        cosines = real_rows(cosines, mask)
        self.total += float(cosines.sum())
        self.count += cosines.numel()

    @property
    def value(self) -> Tensor:
        """The influence so far, a float64 scalar."""
        return torch.tensor(1 - self.total / max(self.count, 1), dtype=torch.float64)
