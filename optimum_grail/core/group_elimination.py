"""The optimal brain surgeon in groups: several units leave between two updates of the inverse.

What :mod:`~optimum_grail.core.elimination` does one unit at a time and with a ridge per feature, published methods do
in groups (SlimGPT, Ling et al. 2024; OSSCAR, Meng et al. 2024) and with a ridge on the mean diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optimum_grail.core.elimination import Elimination, damped_inverse_
from optimum_grail.core.linalg import live_features


def mean_damped(weight: Tensor, gram: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """``W`` with the columns of dead features zero, and ``G + λI`` with ``λ = damping · mean diag(G)``.

    Args:
        weight: ``[O, F]``, float64.
        gram: ``[F, F]``, float64.
        damping: relative ridge, above 0.
    """
    alive = torch.zeros_like(gram.diagonal())
    alive[live_features(gram.diagonal())] = 1.0
    ridge = damping * float(gram.diagonal().mean())
    damped = gram.clone()
    damped.diagonal().add_(ridge if ridge > 0 else 1.0)
    return weight * alive, damped


def diagonal_blocks(matrix: Tensor, units: int) -> Tensor:
    """The blocks ``[units, span, span]`` on the diagonal of ``matrix`` ``[F, F]``; a view."""
    span = len(matrix) // max(units, 1)
    return matrix.reshape(units, span, units, span).diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def block_costs(columns: Tensor, blocks: Tensor) -> Tensor:
    """``tr(C_S B_S⁻¹ C_Sᵀ)`` for the columns ``[O, F]`` of every unit and its block ``[units, span, span]``; float64
    ``[units]``. With ``B`` the blocks of the inverse Gram it is what removing the unit costs."""
    parts = columns.reshape(len(columns), len(blocks), -1).transpose(0, 1)
    solved: Tensor = torch.linalg.solve(blocks, parts.transpose(1, 2))
    return (parts * solved.transpose(1, 2)).sum((1, 2))


def columns_of(units: Tensor, span: int) -> Tensor:
    """Indices of the features of ``units``, in their order; int64 ``[len(units) * span]``."""
    return (units[:, None] * span + torch.arange(span, device=units.device)).flatten()


def eliminate_in_groups(weight: Tensor, gram: Tensor, units: int, sizes: Sequence[int]) -> Elimination:
    """Remove ``sizes[0]`` units of least cost, update weight and inverse, remove ``sizes[1]`` more, and so on.

    Args:
        weight: consumer ``[O, F]``, float64.
        gram: damped second moments ``[F, F]``, float64, positive definite.
        units: number of units, each owning ``F / units`` consecutive features.
        sizes: how many units each round removes; their sum is below ``units``.

    The errors are exact at every unit: a group's joint cost ``tr(W_S (Q_SS)⁻¹ W_Sᵀ)`` is the sum of those of its units
    one after the other, the squares of ``L⁻¹ W_Sᵀ`` for the Cholesky factor ``L`` of ``Q_SS``.
    """
    span = weight.shape[1] // units
    total = float(((weight @ gram) * weight).sum())
    left = torch.arange(units, device=weight.device)
    inverse = damped_inverse_(gram.clone(), 0.0)
    order, costs = [left[:0]], [weight.new_zeros(1)]
    for size in sizes:
        picked = block_costs(weight, diagonal_blocks(inverse, len(left))).argsort(stable=True)[:size]
        strip = columns_of(picked, span)
        stay = torch.ones(len(inverse), dtype=torch.bool, device=weight.device)
        stay[strip] = False
        lower = torch.linalg.cholesky(inverse[strip][:, strip])
        paid = torch.linalg.solve_triangular(lower, weight[:, strip].T, upper=False).square().sum(1)
        rows = torch.cholesky_solve(inverse[strip][:, stay], lower)
        weight = weight[:, stay] - weight[:, strip] @ rows
        inverse = inverse[stay][:, stay] - inverse[stay][:, strip] @ rows
        order.append(left[picked])
        costs.append(paid.reshape(len(picked), span).sum(1))
        left = left[stay[::span]]
    return Elimination(torch.cat(order).cpu(), torch.cat(costs).cpu().cumsum(0), total)
