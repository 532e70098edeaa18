"""Fewer dimensions inside every head: which rotation pairs of queries and keys stay, and what values turn into.

Rotary positions turn two dimensions of a query or key together, a *pair*, each pair at its own speed. A logit is a sum
over pairs, so that pairs can go whole. Between the values and the consumer nothing but a sum over tokens stands: values
may be projected onto any subspace, of which the consumer reads as much as it can.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from optimum_grail.core.moments import Moments

FLOOR = 1e-10
"""Relative to the mean variance: directions in which values do not move count as moving so much."""


@dataclass(frozen=True)
class HeadReduction:
    """How the dimensions inside all heads of one attention shrink from ``D`` to ``d``.

    Args:
        pairs: the rotation pairs of queries and keys that stay, int64, shape ``[d / 2]``, ascending; pair ``j`` is the
            dimensions ``j`` and ``j + D / 2``.
        values: what becomes of the values, ``v' = A v``: float64, shape ``[key-value heads, d, D]``.
        outputs: what the consumer makes of them before it is refitted, ``z = B z'``: float64, shape
            ``[query heads, D, d]``.
    """

    pairs: Tensor
    values: Tensor
    outputs: Tensor

    @property
    def size(self) -> int:
        """Dimensions per head afterwards."""
        return 2 * len(self.pairs)

    @property
    def whole(self) -> int:
        """Dimensions per head before."""
        return int(self.values.shape[2])

    @property
    def dimensions(self) -> Tensor:
        """The dimensions of queries and keys that stay, in their new order; int64, shape ``[d]``."""
        return dimensions_of(self.pairs, self.whole)

    @property
    def gain(self) -> float:
        """What queries are multiplied by, so that logits are divided by the root of the new size as by the old one."""
        return sqrt(self.size / self.whole)


def dimensions_of(pairs: Tensor, whole: int) -> Tensor:
    """The dimensions of ``pairs`` in heads of ``whole`` dimensions, halves one behind the other; int64."""
    return torch.cat([pairs, pairs + whole // 2])


def fewer_dimensions(whole: int, fraction: float) -> int:
    """The even number of dimensions, at least 2, nearest to what is left of ``whole`` when ``fraction`` goes."""
    return max(2, 2 * round(whole * (1 - fraction) / 2))


def choose_pairs(damages: Tensor, keep: int) -> Tensor:
    """The pairs that stay: those without which most is lost.

    Args:
        damages: what is lost without each pair, float64, shape ``[P]``.
        keep: how many stay, at least 1.

    Returns:
        int64, shape ``[keep]``, ascending.
    """
    return damages.argsort(descending=True, stable=True)[:keep].sort().values


def turn_values(
    moments: Moments, weight: Tensor, whole: int, groups: int, size: int, affine: bool
) -> tuple[Tensor, Tensor]:
    """The subspace of the values of every key-value head from which its query heads' part of the output is met best.

    Of the values' mean covariance ``C`` over the query heads that share them and ``M = Σ_h W_hᵀ W_h``, the leading
    eigenvectors ``V`` of ``C^½ M C^½`` span it: ``Vᵀ C^-½`` makes it of the values, here with orthonormal rows, so that
    values keep their size. Exact where each query head has values of its own.

    Args:
        moments: of what enters the consumer, head by head.
        weight: of the consumer, float64, shape ``[O, query heads * D]``.
        whole: dimensions per head, ``D``.
        groups: key-value heads.
        size: dimensions to keep.
        affine: whether the consumer's bias makes up for means.

    Returns:
        ``(values, outputs)`` of a :class:`HeadReduction`. Where ``size`` is ``D`` they undo each other.
    """
    heads = weight.shape[1] // whole
    gram = moments.covariance(affine).to(weight).view(heads, whole, heads, whole).diagonal(dim1=0, dim2=2).movedim(2, 0)
    gram = _floored(gram)
    columns = weight.view(len(weight), heads, whole).movedim(1, 0)
    shared = heads // groups
    spread = gram.view(groups, shared, whole, whole).mean(1)
    reads = (columns.mT @ columns).view(groups, shared, whole, whole).sum(1)
    root, inverse = _roots(spread)
    vectors = torch.linalg.eigh(root @ reads @ root).eigenvectors.flip(2)[..., :size]
    encode = torch.linalg.qr(inverse @ vectors).Q.mT  # [groups, d, D]
    each = encode.repeat_interleave(shared, 0)
    seen = gram @ each.mT  # [heads, D, d]
    outputs = torch.linalg.solve(each @ seen, seen.mT).mT
    return encode, outputs


def _floored(gram: Tensor) -> Tensor:
    """Second moments ``[H, D, D]`` that can be inverted; of a head that puts out nothing, the identity."""
    mean = gram.diagonal(dim1=1, dim2=2).mean(1)
    least = torch.where(mean > 0, FLOOR * mean, torch.ones_like(mean))
    return gram + least[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)


def _roots(spread: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric square roots of ``[G, D, D]`` and of their inverses."""
    values, vectors = torch.linalg.eigh(spread)
    roots = torch.maximum(values, FLOOR * values[:, -1:]).sqrt()
    return (vectors * roots[:, None]) @ vectors.mT, (vectors / roots[:, None]) @ vectors.mT
