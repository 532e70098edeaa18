"""How much something changes its input, summed up over batches."""

from __future__ import annotations

import torch
from torch import Tensor

from optimum_grail.streams.probe import real_rows, rows_of


def cosines(before: Tensor, after: Tensor, mask: Tensor | None) -> Tensor:
    """``Σ cos(before, after)`` over the real rows of one batch, and their number; float64 ``[2]``.

    ``mask`` ``[B, R]`` is non-zero on real rows. Where the shape changes the cosine is 0.
    """
    if before.shape != after.shape:
        return torch.tensor([0.0, 1.0], dtype=torch.float64)
    found = torch.cosine_similarity(rows_of(before).float(), rows_of(after).float(), dim=-1)
    found = real_rows(found, mask)
    return torch.tensor([float(found.sum()), found.numel()], dtype=torch.float64)


def influence(sums: Tensor | None) -> Tensor:
    """``1 - mean cos``, a float64 scalar, of sums of :func:`cosines`; 1 where nothing was seen."""
    if sums is None:
        return torch.ones((), dtype=torch.float64)
    return 1 - sums[0] / sums[1].clamp(min=1)
