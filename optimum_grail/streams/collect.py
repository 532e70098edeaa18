"""From records of block runs to statistics of groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.moments import Moments, MomentSums, Statistics, Subset, TargetSums
from optimum_grail.models.matrix import feature_axis
from optimum_grail.processes.ranks import ALONE, Ranks
from optimum_grail.streams.probe import Record, features_of, fits, real_rows, rows_of
from optimum_grail.streams.shelf import LARGE, FiledSubsets

TINY_SCALE = 1e-3
"""Outputs whose scale on the way to the stream is below this fraction of the median scale use the self target: dividing
the stream's drift by it would blow noise up."""


def norm_scale(norm: nn.BatchNorm2d) -> Tensor:
    """``γ / sqrt(σ² + ε)`` of a BatchNorm in eval mode, ``[C]``."""
    if norm.running_var is None:
        return torch.ones(norm.num_features)
    scale = torch.rsqrt(norm.running_var + norm.eps)
    return scale * norm.weight.detach() if norm.affine else scale


def drift_of(dense: Record, student: Record, scale: Tensor | None, axis: int = 1) -> Tensor | None:
    """Rows ``[B, R, O]`` of ``d = y* - W s``: the gap of the residual streams, divided by the ``scale`` ``[O]`` of the
    consumer's outputs on their way there if there is one; of the consumer's outputs, whose features lie along ``axis``,
    where the group reaches no stream."""
    if dense.stream is None or student.stream is None:
        return _gap(dense.output, student.output, axis)
    gap = rows_of(dense.stream - student.stream)
    if scale is None:
        return gap
    usable = scale.abs() > TINY_SCALE * scale.abs().median()
    return torch.where(usable, gap / torch.where(usable, scale, torch.ones_like(scale)), torch.zeros_like(gap))


class Gathering(Protocol):
    """What passes over the batches fill: sums of one group."""

    group: ChannelGroup

    def add(
        self,
        student: Record,
        dense: Record | None,
        mask: Tensor | None,
        subset: int | None,
        unfolded: Record | None = None,
    ) -> None:
        """Add one batch, see :meth:`Collector.add`."""


@dataclass
class Collector:
    """Running sums of one group.

    Args:
        group: the group.
        consumer: its consumer, still at full width.
        scale: by what its outputs are multiplied on their way to the stream, ``[O]``, or ``None``.
        view: how a convolution's features are seen, ``"patch"`` or ``"shared"``.
        held_out: keep the subsets of the rows apart.
        filed: whether the sums of wide groups are handed over in files.
        ranks: the processes that share the rows; their sums are added when they are asked for.
    """

    group: ChannelGroup
    consumer: nn.Module
    scale: Tensor | None
    view: str
    held_out: bool
    filed: bool = False
    ranks: Ranks = ALONE
    moments: dict[int, MomentSums] = field(default_factory=dict)
    targets: dict[int, TargetSums] = field(default_factory=dict)
    offsets: dict[int, TargetSums] = field(default_factory=dict)

    def add(
        self,
        student: Record,
        dense: Record | None,
        mask: Tensor | None,
        subset: int | None,
        unfolded: Record | None = None,
    ) -> None:
        """Add one batch.

        Args:
            student: what the student's block showed.
            dense: what the dense block showed, or ``None`` without a dense stream.
            mask: ``[B, R]``, non-zero on real rows; ``None`` where all are real.
            subset: where the rows belong; ``None``: the first halves of the samples to 0, the second ones to 1.
            unfolded: what the student's block showed before its producers were folded; ``None`` without folding.
        """
        if student.routed is not None:
            features = student.routed.features(self.consumer)
        elif student.features is not None:
            features = features_of(student.features, self.consumer, self.view)
        else:
            return
        axis = feature_axis(self.consumer)
        drift = offset = None
        if self.view != "shared":  # where taps share one map, a row of the matrix is no output
            drift = None if dense is None else drift_of(dense, student, self.scale, axis)
            offset = None if unfolded is None else _gap(unfolded.output, student.output, axis)
        if subset is not None or not self.held_out:
            self._add(subset if subset is not None and self.held_out else 0, features, drift, offset, mask)
            return
        real = mask.bool() if fits(mask, features) else torch.ones_like(features[..., 0], dtype=torch.bool)
        for index, half in enumerate(halves(real)):
            self._add(index, features, drift, offset, half)

    def _add(
        self, subset: int, features: Tensor, drift: Tensor | None, offset: Tensor | None, mask: Tensor | None
    ) -> None:
        rows = real_rows(features, mask)
        if subset not in self.moments:
            self.moments[subset] = MomentSums.zero(rows.shape[1], rows.device)
        self.moments[subset].add_(rows)
        for sums, gap in ((self.targets, drift), (self.offsets, offset)):
            if gap is not None:
                gaps = real_rows(gap, mask)
                if subset not in sums:
                    sums[subset] = TargetSums.zero(gaps.shape[1], rows.shape[1], rows.device)
                sums[subset].add_(gaps, rows)

    def counts(self) -> dict[int, int]:
        """Rows of every subset, those of all processes."""
        counts = {str(subset): torch.tensor(sums.count) for subset, sums in self.moments.items()}
        found = self.ranks.added(f"rows of {self.group.name}", counts)
        return {int(subset): int(count) for subset, count in sorted(found.items())}

    def statistics(self, crossed: bool = False) -> Statistics:
        """The sums over the rows of all processes, handed over: a collector is emptied by it.

        Args:
            crossed: whether the subsets are sources.

        Raises:
            StatisticsError: no rows, or activations that are not finite.
        """
        if self.ranks.count > 1:
            self._add_others()
        large = self.filed and any(sums.gram.nbytes >= LARGE for sums in self.moments.values())
        subsets = FiledSubsets(self._checked()) if large else tuple(self._checked())
        return Statistics(subsets, crossed and len(subsets) > 1)

    def _add_others(self) -> None:
        """Add what the other processes have collected."""
        parts: dict[str, Tensor] = {}
        for subset, sums in self.moments.items():
            parts |= {f"{subset}/count": torch.tensor(sums.count), f"{subset}/total": sums.total}
            parts[f"{subset}/gram"] = sums.gram
        for kind, found in (("target", self.targets), ("offset", self.offsets)):
            for subset, gaps in found.items():
                parts |= {f"{subset}/{kind}/{name}": value for name, value in vars(gaps).items()}
        whole = self.ranks.added(f"statistics of {self.group.name}", parts)
        device = next(self.consumer.parameters()).device
        if not parts and device.type != "meta":
            whole = {name: value.to(device) for name, value in whole.items()}
        for subset in sorted({int(name.partition("/")[0]) for name in whole}):
            count = int(whole[f"{subset}/count"])
            self.moments[subset] = MomentSums(count, whole[f"{subset}/total"], whole[f"{subset}/gram"])
            for kind, found in (("target", self.targets), ("offset", self.offsets)):
                names = ("total", "cross", "energy")
                if f"{subset}/{kind}/total" in whole:
                    found[subset] = TargetSums(*(whole[f"{subset}/{kind}/{name}"] for name in names))

    def _checked(self) -> Iterator[Subset]:
        """The subsets that have rows, taken one by one; what is too short to be halved may have none."""
        filled = [subset for subset in sorted(self.moments) if self.moments[subset].count]
        for number in filled:
            subset = self._taken(number)
            subset.moments.check(self.group.name)
            if subset.target is not None:
                subset.target.check(self.group.name)
            yield subset
        if not filled:
            Moments.zero(0).check(self.group.name)

    def _taken(self, subset: int) -> Subset:
        """The sums of one subset, which are no more here afterwards."""
        moments, target, offset = (
            self.moments.pop(subset).taken(),
            self.targets.pop(subset, None),
            self.offsets.pop(subset, None),
        )
        if offset is not None:
            moments = replace(moments, offset=offset.taken())
        return Subset(moments, None if target is None else target.taken())


def _gap(target: Tensor | None, now: Tensor | None, axis: int) -> Tensor | None:
    return None if target is None or now is None else rows_of(target - now, axis)


def halves(real: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second half of each sample's real rows, as masks ``[B, R]``; padding is in neither, and an odd
    row is in the first."""
    count = real.sum(1, keepdim=True)
    first = real & (2 * real.cumsum(1) <= count + 1)
    return first, real & ~first
