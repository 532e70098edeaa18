"""Rehearsal: the fit on a few batches, to judge widths by what they really do instead of by prediction.

Curves and sensitivities are measured one group at a time; where much goes at once, damages do not add up. A rehearsal
runs the whole fit on an eighth of the samples, one block at a time on a copy, and measures the loss on held-out ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from optimum_grail.calibration.batches import PROBE_FRACTION, Batch
from optimum_grail.calibration.stream import Call
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import GroupPlan
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.core.reduction import Reduction
from optimum_grail.models.layout import Layout
from optimum_grail.pipeline.blocks import Batches, Streams
from optimum_grail.pipeline.findings import Curve
from optimum_grail.pipeline.fit import FitRun
from optimum_grail.pipeline.masking import spare
from optimum_grail.pipeline.methods import Methods
from optimum_grail.pipeline.tail import Tail
from optimum_grail.report.progress import Silent


@dataclass(frozen=True)
class Rehearsal:
    """Judges widths of a dense model.

    Args:
        model: in eval mode; unchanged.
        layout: its stacks and groups.
        methods: those of the fit; units go in the order of the curves instead of the selector's.
        batches: calibration batches, of which a few are used.
        curves: of the survey.
        seed: of the fit.
    """

    model: nn.Module
    layout: Layout
    methods: Methods
    batches: Sequence[Batch]
    curves: Mapping[str, Curve]
    seed: int

    @cached_property
    def few(self) -> list[Batch]:
        """An eighth of the samples to fit on and of those held out; at least one batch of each."""
        found: list[Batch] = []
        for split in ("halves", "fit", "held"):
            named = [batch for batch in self.batches if batch.split == split]
            limit, seen = sum(_size(batch) for batch in named) / PROBE_FRACTION, 0
            for index, batch in enumerate(named):
                if index == 0 or seen + _size(batch) <= limit:
                    found.append(batch)
                    seen += _size(batch)
        return found

    @cached_property
    def judges(self) -> list[int]:
        """Indices of the few batches that the loss is measured on: those held out, if there are any."""
        held = [index for index, batch in enumerate(self.few) if batch.split == "held"]
        return held or list(range(len(self.few)))

    @cached_property
    def tail(self) -> Tail:
        """The dense model's outputs on the judging batches."""
        return Tail.of(self.model, self.layout, [self.few[index] for index in self.judges])

    @torch.no_grad()
    def damage(self, kept: Mapping[str, int], dropped: Sequence[str] = ()) -> float:
        """Loss against the dense outputs with ``kept`` units per group and without the blocks ``dropped``."""
        selector = _InOrder({name: curve.order for name, curve in self.curves.items()})
        methods = replace(self.methods, selector=selector)
        trial = _Trial(self.model, self.layout, methods, kept, self.few, self.seed, Silent(), dropped)
        trial.run_()
        return sum(
            self.tail.damage(name, [], [streams.student[index] for index in self.judges])
            for name, streams in trial.ends.items()
        )


@dataclass(frozen=True)
class _Trial(FitRun):
    """A fit that leaves the model as it was: every block is compressed as a copy, which is given up once passed."""

    ends: dict[str, Streams] = field(default_factory=dict)

    def _block_(
        self,
        path: str,
        groups: list[ChannelGroup],
        calls: Sequence[Call],
        streams: Streams,
        batches: Batches,
        last: bool,
        beyond: Sequence[tuple[nn.Module, Sequence[Call]]] = (),
    ) -> list[GroupPlan]:
        self.ends[next(stack.name for stack in self.layout.stacks if path in stack.blocks)] = streams
        with spare(self.model, path):
            return super()._block_(path, groups, calls, streams, batches, False, beyond)


@dataclass(frozen=True)
class _InOrder:
    """Drops units in a given order."""

    orders: Mapping[str, Tensor]
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        order = self.orders[problem.name]
        stay = torch.ones(problem.units, dtype=torch.bool)
        stay[order[: problem.units - keep]] = False
        return Selection(Reduction.prune(problem.units, torch.nonzero(stay).flatten()), order)


def _size(batch: Batch) -> int:
    return len(next(iter(batch.inputs.values())))
