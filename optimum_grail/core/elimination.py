"""Exact greedy backward elimination: the optimal brain surgeon for whole units, one at a time.

Minimises ``tr(W_D S_D W_Dᵀ)``, ``S_D`` the conditional second moment of the dropped features given the kept ones, by
removing in each step the unit ``S`` of least ``tr(W_S (Q_SS)⁻¹ W_Sᵀ)``, ``Q`` the inverse of the damped Gram, and
updating ``W`` and ``Q`` (Hassibi & Stork 1993; structured: ZipLM, Kurtic et al. 2023, eq. 3-5). The scores removed sum
to the damped loss of the final least-squares weights, so one run yields the error curve of every width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from optimum_grail.core.linalg import live_features

PANEL = 64
"""Removals between two updates of the whole matrices (single-feature units)."""
ROWS = 256
"""Rows that are moved at once."""


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
    """One feature per unit: lazy panel updates, and eliminated features leave the matrices after every panel. Of the
    consumer nothing but ``WᵀW`` is asked for, so that a step costs the same whatever its outputs are."""
    left = torch.arange(units, device=weight.device)
    products = weight.T @ weight
    order, costs = [], []
    while remove > 0:
        panel = _panel(products, inverse, min(PANEL, remove))
        order.append(left[panel.picked])
        costs.append(panel.costs)
        going = torch.zeros(len(left), dtype=torch.bool, device=weight.device)
        going[panel.picked] = True
        stay = torch.nonzero(~going).flatten()
        rows, loads = panel.rows[:, stay], panel.loads[:, stay]
        products, inverse = shrunk_(products, stay), shrunk_(inverse, stay)
        products.addmm_(rows.T, loads, alpha=-1).addmm_(loads.T, rows, alpha=-1)
        inverse.addmm_(rows.T, rows * panel.pivots[:, None], alpha=-1)
        left, remove = left[stay], remove - len(panel.picked)
    return _join(order, torch.int64), _join(costs, torch.float64)


class _Panel(NamedTuple):
    """Removals that ``Q`` and ``P = WᵀW`` do not show yet: ``Q - Rᵀ diag(pivots) R`` and ``P - Rᵀ L - Lᵀ R`` do.

    ``picked`` and ``costs`` are the features and what they cost, ``rows`` the pivot rows ``R = Q_j / Q_jj``, ``loads``
    ``L = P_j - ½ P_jj R``, both ``[size, F]``, and ``pivots`` the ``Q_jj``, all at the time of removal.
    """

    picked: Tensor
    costs: Tensor
    rows: Tensor
    loads: Tensor
    pivots: Tensor


def _panel(products: Tensor, inverse: Tensor, size: int) -> _Panel:
    """Remove ``size`` features without touching ``products`` and ``inverse``."""
    rows, loads = inverse.new_zeros(2, size, inverse.shape[0])
    pivots, costs = inverse.new_zeros(2, size)
    picked = torch.zeros(size, dtype=torch.int64, device=inverse.device)
    diagonal, norms = inverse.diagonal().clone(), products.diagonal().clone()
    gone = torch.zeros_like(norms)
    for t in range(size):
        scores = norms.clamp(min=0) / diagonal + gone
        j = picked[t] = torch.argmin(scores)
        past, load = rows[:t, j], loads[:t, j]
        row = inverse[j] - (past * pivots[:t]) @ rows[:t]
        product = products[j] - past @ loads[:t] - load @ rows[:t]
        pivot = row[j]
        row = row / pivot
        loads[t] = product - 0.5 * product[j] * row
        norms = norms - 2 * row * loads[t]
        diagonal = (diagonal - pivot * row.square()).clamp(min=torch.finfo(row.dtype).tiny)
        gone[j] = float("inf")
        rows[t], pivots[t], costs[t] = row, pivot, scores[j]
    return _Panel(picked, costs, rows, loads, pivots)


def shrunk_(matrix: Tensor, stay: Tensor) -> Tensor:
    """Rows and columns ``stay`` (ascending) of ``matrix``, in its own memory: a copy beside it would be the peak."""
    flat, size = matrix.view(-1), len(stay)
    for start in range(0, size, ROWS):
        part = matrix[stay[start : start + ROWS]][:, stay]  # rows move towards the front, never over one still unread
        flat[start * size : start * size + part.numel()] = part.flatten()
    return flat[: size * size].view(size, size)


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
