"""Exact greedy backward elimination: the optimal brain surgeon for whole units, one at a time.

Minimises ``tr(W_D S_D W_Dᵀ)``, ``S_D`` the conditional second moment of the dropped features given the kept ones, by
removing in each step the unit ``S`` of least ``tr(W_S (Q_SS)⁻¹ W_Sᵀ)``, ``Q`` the inverse of the damped Gram, and
updating ``W`` and ``Q`` (Hassibi & Stork 1993; structured: ZipLM, Kurtic et al. 2023, eq. 3-5). The scores removed sum
to the damped loss of the final least-squares weights, so one run yields the error curve of every width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optimum_grail.core.linalg import live_features

PANEL = 64
"""Removals between two updates of the whole inverse (single-feature units)."""


@dataclass(frozen=True)
class Elimination:
    """Result of a run.

    Args:
        order: units in the order they went, int64.
        errors: float64, ``errors[t]`` is the damped loss after ``t`` removals, ``errors[0] = 0``.
        total: ``tr(W G Wᵀ)``, the loss of dropping everything.
    """

    order: Tensor
    errors: Tensor
    total: float


def eliminate(weight: Tensor, gram: Tensor, units: int, remove: int, damping: float) -> Elimination:
    """Remove ``remove`` of ``units`` units greedily.

    Args:
        weight: consumer ``[O, F]``, float64.
        gram: second moments of the features ``[F, F]``, float64, centred or not.
        units: number of units, each owning ``F / units`` consecutive features.
        remove: how many go, below ``units``.
        damping: ridge relative to each feature's second moment.

    Units whose features are all dead go first, at no cost.
    """
    span = weight.shape[1] // units
    total = float(((weight @ gram) * weight).sum())
    alive = torch.zeros(units, dtype=torch.bool, device=gram.device)
    alive[live_features(gram.diagonal()) // span] = True
    dead = torch.nonzero(~alive).flatten()[:remove]
    left = torch.nonzero(alive).flatten()
    columns = (left[:, None] * span + torch.arange(span, device=left.device)).flatten()
    run = _single if span == 1 else _blocks
    gram = gram[columns[:, None], columns]
    # Neither matrix has a name here, so that both are freed as soon as the run has shrunk them.
    order, costs = run(weight[:, columns], damped_inverse_(gram, damping), len(left), remove - len(dead))
    errors = torch.cat([torch.zeros(1 + len(dead), dtype=torch.float64), costs.cpu().cumsum(0)])
    return Elimination(torch.cat([dead, left[order]]).cpu(), errors, total)


def damped_inverse_(gram: Tensor, damping: float) -> Tensor:
    """``(G + λ diag(G))⁻¹`` ``[F, F]``; dead features get unit diagonal. Overwrites ``gram``: two matrices of its size
    are alive at the peak."""
    diagonal = gram.diagonal().clone()
    floor = max(float(diagonal.max()) * 1e-14, 1e-300) if len(diagonal) else 1.0
    root = diagonal.clamp(min=floor).rsqrt()
    gram.mul_(root[:, None]).mul_(root)
    gram.diagonal().clamp_(min=1.0).add_(damping)
    lower, info = torch.linalg.cholesky_ex(gram)
    while int(info):
        damping = max(damping, 1e-10) * 10
        gram.diagonal().add_(damping)
        lower, info = torch.linalg.cholesky_ex(gram)
    # LAPACK counts by columns: only a transposed view is written to without another copy. The inverse is symmetric.
    torch.cholesky_inverse(lower, out=gram.mT)
    return gram.mul_(root[:, None]).mul_(root)


def _single(weight: Tensor, inverse: Tensor, units: int, remove: int) -> tuple[Tensor, Tensor]:
    """One feature per unit: lazy panel updates, and eliminated features leave the matrices after every panel."""
    left = torch.arange(units, device=weight.device)
    order, costs = [], []
    while remove > 0:
        picked, paid, rows, pivots, heads = _panel(weight, inverse, min(PANEL, remove))
        order.append(left[picked])
        costs.append(paid)
        going = torch.zeros(len(left), dtype=torch.bool, device=weight.device)
        going[picked] = True
        stay = torch.nonzero(~going).flatten()
        rows = rows[:, stay]
        weight = weight[:, stay].addmm_(heads, rows, alpha=-1)
        inverse = inverse[stay[:, None], stay]  # the larger one is freed before the product needs memory
        inverse.addmm_(rows.T, rows * pivots[:, None], alpha=-1)
        left, remove = left[stay], remove - len(picked)
    return _join(order, torch.int64), _join(costs, torch.float64)


def _panel(weight: Tensor, inverse: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Remove ``size`` features without touching ``weight`` and ``inverse``: corrections are kept as low-rank factors.

    Returns the features picked, their costs, the pivot rows ``Q_j / Q_jj`` ``[size, F]``, the pivots ``Q_jj`` and the
    consumer columns at the time of removal ``[O, size]``.
    """
    rows = inverse.new_zeros(size, inverse.shape[0])
    heads = weight.new_zeros(weight.shape[0], size)
    pivots = inverse.new_zeros(size)
    costs = inverse.new_zeros(size)
    picked = torch.zeros(size, dtype=torch.int64, device=weight.device)
    diagonal = inverse.diagonal().clone()
    norms = weight.square().sum(0)
    gone = torch.zeros_like(norms)
    for t in range(size):
        scores = norms.clamp(min=0) / diagonal + gone
        j = picked[t] = torch.argmin(scores)
        past = rows[:t, j]
        row = inverse[j] - (past * pivots[:t]) @ rows[:t]
        head = weight[:, j] - heads[:, :t] @ past
        pivot = row[j]
        row = row / pivot
        product = head @ weight - (head @ heads[:, :t]) @ rows[:t]
        norms = norms - 2 * row * product + row.square() * head.square().sum()
        diagonal = (diagonal - pivot * row.square()).clamp(min=torch.finfo(row.dtype).tiny)
        gone[j] = float("inf")
        rows[t], heads[:, t], pivots[t], costs[t] = row, head, pivot, scores[j]
    return picked, costs, rows, pivots, heads


def _blocks(weight: Tensor, inverse: Tensor, units: int, remove: int) -> tuple[Tensor, Tensor]:
    """Several features per unit (heads, convolution taps): block pivots."""
    span = weight.shape[1] // max(units, 1)
    left = torch.arange(units, device=weight.device)
    order, costs = [], []
    for _ in range(remove):
        count = len(left)
        pivots = inverse.reshape(count, span, count, span).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        columns = weight.reshape(-1, count, span).transpose(0, 1)
        scores = (columns * torch.linalg.solve(pivots, columns.transpose(1, 2)).transpose(1, 2)).sum((1, 2))
        j = int(torch.argmin(scores))
        strip = slice(j * span, (j + 1) * span)
        stay = torch.ones(count * span, dtype=torch.bool, device=weight.device)
        stay[strip] = False
        rows = torch.linalg.solve(inverse[strip, strip], inverse[strip][:, stay])
        weight, inverse = (
            weight[:, stay] - weight[:, strip] @ rows,
            inverse[stay][:, stay] - inverse[stay][:, strip] @ rows,
        )
        order.append(left[j : j + 1])
        costs.append(scores[j : j + 1])
        left = torch.cat([left[:j], left[j + 1 :]])
    return _join(order, torch.int64), _join(costs, torch.float64)


def _join(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, dtype=dtype)
