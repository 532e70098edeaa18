"""Error curves whose scale is estimated from gradients: what a small error of a consumer's output does to the model's,
to second order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.problem import GroupProblem
from optimum_grail.data.batches import PROBE_FRACTION, few_of
from optimum_grail.data.portion import Portion
from optimum_grail.models.matrix import feature_axis
from optimum_grail.models.matrix import rows as output_features
from optimum_grail.signals import SIGNALS, Dense, Tensors, Visit, Work
from optimum_grail.signals._curves import CurveSignal, Thinned
from optimum_grail.streams.backward import Backward, Slope
from optimum_grail.streams.probe import Probe, Wanted, features_of, real_rows, rows_of
from optimum_grail.streams.problems import view_of

PART = 2
"""The error is that of a group that is halved and compensated."""
PASSES = 5
"""Forward passes that the sweep costs: forward, again with a graph, backward (two), and once more for the features."""
GRADIENT_BYTES = 2**28
"""What is kept of all groups' gradients, in bfloat16."""
FEWEST_ROWS = 256
EVEN = 0.1
"""Share of the draw of rows that does not look at their size."""


@SIGNALS.register
@dataclass(frozen=True)
class GradientCurves(CurveSignal):
    """Relative error times the rise of the loss per unit of error, to second order, from one backward sweep.

    With ``g`` the gradient of a row's log-likelihood (of a label drawn from the model's own prediction) by the
    consumer's output and ``e`` the error of that output when the group is halved and compensated, the loss (the
    divergence from the dense outputs) rises by ``½ (g·e)²``, summed over the rows: the Fisher information along the
    error, the mixed terms of different rows left out.
    """

    version: ClassVar[int] = 3

    def before(self, dense: Dense) -> Tensors:
        """Of every group some rows of gradients, ``NAME/gradients`` ``[n, O]`` in bfloat16, which of the few batches'
        rows they are, ``NAME/rows`` int64, and what their squares count, ``NAME/shares`` float64. They are drawn among
        the rows of all processes, and each process keeps its own."""
        batches = dense.batches.chosen(few_of(dense.batches.whole))
        sweep = Backward(dense.model, dense.layout, batches, dense.order, dense.seed, dense.offload)
        masks = [batch.inputs.get(dense.layout.mask) if dense.layout.mask else None for batch in batches]
        draw = torch.Generator().manual_seed(dense.seed)
        most = rows_kept(sum(dense.layout.weights[group.consumer.module].rows for group in dense.layout.groups))
        found: dict[str, Tensor] = {}
        for group, slopes in sweep.run():
            gradients, sizes, counts = _rows(dense.model, group, slopes, masks)
            rows, shares = drawn(batches.joined(f"sizes of gradients of {group.name}", sizes, counts), most, draw)
            rows, shares = _own(batches, counts, rows, shares)
            found[f"{group.name}/gradients"] = gradients[rows].bfloat16()
            found[f"{group.name}/rows"] = rows
            found[f"{group.name}/shares"] = shares / sweep.scale
        return found

    def scaled(self, visit: Visit, thinned: Thinned, found: Tensors) -> tuple[Tensor, float]:
        """The rise of the loss along the error of the halved group."""
        name, ranks = thinned.group.name, visit.dense.batches.ranks
        gradients, shares = found[f"{name}/gradients"].float(), found[f"{name}/shares"]
        if view_of(visit.dense.model, thinned.group) == "shared":  # its rows are no outputs
            squares = ranks.added(name, {"squares": (gradients.double().square() * shares[:, None]).sum(0)})["squares"]
            return thinned.errors, sensitivity(thinned.problem, squares)
        error, residual = thinned.residual(PART)
        rise = 0.0
        if len(gradients):
            rows = self._features(visit, thinned.group)[found[f"{name}/rows"]]
            if thinned.problem.owns_bias:
                moments = thinned.problem.measured.moments
                rows = rows - (moments.total / max(moments.count, 1)).to(rows)
            rises = ((rows @ residual.to(rows).T) * gradients).sum(1).double().square()
            rise = float(rises.cpu() @ shares)
        (rise,) = ranks.total(f"what errors of {name} do", rise)
        return thinned.errors, rise / max(error, 1e-12)

    def _features(self, visit: Visit, group: ChannelGroup) -> Tensor:
        """The consumer's input rows on the few batches, ``[N, F]``."""
        model, layout = visit.dense.model, visit.dense.layout
        consumer = model.get_submodule(group.consumer.module)
        probe = Probe(model.get_submodule(visit.path), visit.path, [group], Wanted(features=True), stop_early=True)
        found = []
        for index, hidden in zip(visit.dense.few, visit.inputs, strict=True):
            probe.run(visit.calls[visit.path][index], hidden)
            features = probe.records[group.name].features
            if features is not None:
                mask = visit.dense.batches[index].inputs.get(layout.mask) if layout.mask else None
                found.append(real_rows(features_of(features, consumer, "patch"), mask))
        return torch.cat(found)

    def after(self, found: Tensors) -> Tensors:
        """The curves alone."""
        return {name: tensor for name, tensor in found.items() if name.rpartition("/")[2] not in _PARTS}

    def cost(self, work: Work) -> float:
        """Forward and backward passes of the few batches."""
        return super().cost(work) + PASSES * work.probe + 3 * work.outputs

    def memory(self, work: Work) -> float:
        """The few batches' states between all blocks, or later the rows of gradients."""
        rows = min(work.rows / PROBE_FRACTION, rows_kept(work.put_out))
        return max(work.stream * work.blocks / PROBE_FRACTION, 2 * rows * work.put_out)


_PARTS = ("gradients", "rows", "shares")


def rows_kept(outputs: int) -> int:
    """Rows of gradients that every group may keep, where all consumers together put out so many features for a row."""
    return max(FEWEST_ROWS, GRADIENT_BYTES // (2 * max(outputs, 1)))


def drawn(sizes: Tensor, most: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Choose rows whose weighted sums stand for the sums over all rows.

    Few rows carry most of the curvature, so large ones are drawn more often and count less.

    Args:
        sizes: float64 ``[N]``, not negative; roughly what each row adds to the sum.
        most: rows to choose; if there are no more, all are taken.
        draw: random numbers.

    Returns:
        indices, int64 ``[n]``, and weights, float64 ``[n]``: the sum of ``weights * f[indices]`` estimates that of
        ``f`` without bias.
    """
    if len(sizes) <= most:
        return torch.arange(len(sizes)), torch.ones(len(sizes), dtype=torch.float64)
    even = torch.full_like(sizes, 1 / len(sizes))
    total = sizes.sum()
    odds = EVEN * even + (1 - EVEN) * (sizes / total if total > 0 and total.isfinite() else even)
    indices = torch.multinomial(odds, most, replacement=True, generator=draw)
    return indices, 1 / (most * odds[indices])


def sensitivity(problem: GroupProblem, curvature: Tensor) -> float:
    """Rise of the loss if the consumer's output is lost altogether: the curvature times the output's variance.

    Args:
        problem: the group as numbers.
        curvature: float64 ``[outputs]``: an error of variance ``v`` in output ``o`` raises the loss by
            ``curvature[o] * v``.
    """
    moments = problem.measured.moments
    covariance = moments.covariance(problem.owns_bias) / max(moments.count, 1)
    variance = ((problem.weight @ covariance) * problem.weight).sum(1)
    if len(curvature) != len(variance):  # shared taps: one row per output and tap
        variance = variance.reshape(len(curvature), -1).sum(1)
    return float(curvature @ variance)


def _rows(
    model: nn.Module, group: ChannelGroup, slopes: Sequence[Slope], masks: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor, list[int]]:
    """Gradients of real rows ``[N, O]``; what each is likely to add: the product of the squared norms of gradient and
    features, float64 ``[N]`` on the CPU; and how many rows each batch has."""
    if not slopes:
        outputs = output_features(model.get_submodule(group.consumer.module))
        return torch.empty(0, outputs), torch.empty(0, dtype=torch.float64), []
    consumer = model.get_submodule(group.consumer.module)
    axis, view = feature_axis(consumer), view_of(model, group)
    gradients, sizes = [], []
    for slope, mask in zip(slopes, masks, strict=True):
        rows = real_rows(rows_of(slope.gradient, axis), mask)
        size = rows.double().square().sum(1)
        if view == "patch":
            size *= real_rows(features_of(slope.features, consumer, view), mask).double().square().sum(1)
        gradients.append(rows)
        sizes.append(size.cpu())
    return torch.cat(gradients), torch.cat(sizes), [len(size) for size in sizes]


def _own(batches: Portion, counts: Sequence[int], rows: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Of drawn rows, counted over the batches of all processes, those of this one, counted over its own batches."""
    if batches.ranks.count == 1:
        return rows, shares
    lengths = [iter(each) for each in batches.ranks.notes("rows of the batches", list(counts))]
    sizes = [next(lengths[owner]) for owner in batches.owners]
    place = torch.full((sum(sizes),), -1)
    mine = torch.tensor([owner == batches.ranks.index for owner in batches.owners]).repeat_interleave(
        torch.tensor(sizes)
    )
    place[mine] = torch.arange(int(mine.sum()))
    kept = place[rows] >= 0
    return place[rows][kept], shares[kept]
