"""Selections that are fair to several sources: the source that is served worst counts more, round by round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor

from optimum_grail.core.linalg import factorise
from optimum_grail.core.moments import Moments
from optimum_grail.core.problem import Selection

ROUNDS, STEP = 3, 4.0
"""Rounds after the two that begin, and by what the worst source's weight grows in each; the others' grow less."""


def for_the_worst(
    choose: Callable[[Tensor], Selection], weight: Tensor, sources: Sequence[Moments], affine: bool, damping: float
) -> Selection:
    """The selection of least error on the source where its error is largest, of a few that are tried.

    The first round counts every row alike, the second every source. Then come multiplicative weights: each source's is
    multiplied by ``STEP ** (error / largest error)``. The best round counts, so that on these sources neither of the
    two beginnings does better for the worst one.

    Args:
        choose: makes a selection from a second moment ``[F, F]``, float64, which it may overwrite.
        weight: consumer ``[O, F]``, float64.
        sources: moments of each source's rows, at least one.
        affine: whether the consumer owns a bias: moments are centred then.
        damping: ridge of the refit, relative to each feature's second moment.
    """
    covariances = [source.covariance(affine) for source in sources]
    totals = [float(_loss(weight, covariance).clamp(min=1e-300)) for covariance in covariances]
    everything = reduce(add, sources).covariance(affine)
    weights, found = torch.ones(len(sources), dtype=torch.float64), list[tuple[float, Selection]]()
    for turn in range(2 + ROUNDS):
        mixed = everything.clone() if turn == 0 else torch.zeros_like(everything)
        for share, total, covariance in zip(weights.tolist(), totals, covariances, strict=True) if turn else ():
            mixed.add_(covariance, alpha=share / total)
        selection = choose(mixed)
        errors = source_errors(weight, sources, selection, affine, damping).cpu()
        found.append((float(errors.max()), selection))
        if turn > 0:
            weights = weights * STEP ** (errors / errors.max().clamp(min=1e-300))
    return min(found, key=lambda pair: pair[0])[1]


def source_errors(
    weight: Tensor, sources: Sequence[Moments], selection: Selection, affine: bool, damping: float
) -> Tensor:
    """Error of each source, float64 ``[sources]``, relative to dropping everything, after one readout for all of them:
    the ridge regression on all rows together, with one bias if ``affine``. A source without variance has none."""
    span = weight.shape[1] // len(selection.reduction.assignment)
    kept = selection.reduction.kept.to(weight.device)
    columns = (kept[:, None] * span + torch.arange(span, device=weight.device)).flatten()
    everything = reduce(add, sources)
    covariance = everything.covariance(affine)
    residual = weight.clone()
    residual[:, columns] -= factorise(covariance[columns[:, None], columns], damping).solve(
        weight @ covariance[:, columns]
    )
    mean = everything.total / max(everything.count, 1) if affine else torch.zeros_like(everything.total)
    left, most = (
        torch.stack([_loss(matrix, source.gram) + _shift(matrix, source, mean) for source in sources])
        for matrix in (residual, weight)
    )
    return left.clamp(min=0.0) / most.clamp(min=1e-300)


def _loss(matrix: Tensor, moment: Tensor) -> Tensor:
    """``tr(M G Mᵀ)``, a scalar."""
    return ((matrix @ moment) * matrix).sum()


def _shift(matrix: Tensor, source: Moments, mean: Tensor) -> Tensor:
    """What taking the rows of ``source`` about ``mean`` ``[F]`` instead of zero adds to :func:`_loss`."""
    ours, middle = matrix @ source.total, matrix @ mean
    return source.count * middle.square().sum() - 2 * (ours * middle).sum()
