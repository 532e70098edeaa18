"""Rehearsal: the fit on a few batches, to judge widths by what they really do instead of by prediction.

Curves and sensitivities are measured one group at a time; where much goes at once, damages do not add up. A rehearsal
runs the whole fit on a quarter of the samples, one block at a time on a copy, and measures the loss on others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from optimum_grail.core.contracts import Selector
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import GroupPlan
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.core.reduction import Reduction
from optimum_grail.data.batches import Batch
from optimum_grail.fit.classifier import classifiers_of
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.models.layout import Layout
from optimum_grail.report.progress import Progress, Silent
from optimum_grail.streams.blocks import Batches, Streams, advance
from optimum_grail.streams.capture import Call, Captured, capture
from optimum_grail.streams.masking import spare
from optimum_grail.streams.tail import Tail
from optimum_grail.survey.findings import Curve

REHEARSED_FRACTION = 4
"""One in so many samples is fitted on, and one in so many of the others judged on. With fewer to fit on, splits that
leave readouts fewer regressors look better than they are; with fewer to judge on, chance decides."""


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
        offload: keep streams in files of a temporary folder instead of in memory.
        progress: told once per group of every trial.
    """

    model: nn.Module
    layout: Layout
    methods: Methods
    batches: Sequence[Batch]
    curves: Mapping[str, Curve]
    seed: int
    offload: bool = False
    progress: Progress = field(default_factory=Silent)

    @cached_property
    def few(self) -> list[Batch]:
        """What is fitted on: a quarter of the samples of every split, at least one batch of each."""
        parts = ([batch for batch in self.batches if batch.split == name] for name in ("halves", "fit", "held"))
        return [batch for part in parts for batch in _first(part)]

    @cached_property
    def unseen(self) -> list[Batch]:
        """What the loss is measured on: a quarter of the others, held out if possible; the same if there are none."""
        chosen = {id(batch) for batch in self.few}
        rest = [batch for batch in self.batches if id(batch) not in chosen]
        rest.sort(key=lambda batch: batch.split != "held")
        return _first(rest) or self.few

    @cached_property
    def tail(self) -> Tail:
        """The dense model's outputs on unseen batches."""
        return Tail.of(self.model, self.layout, self.unseen)

    @cached_property
    def entering(self) -> dict[str, Captured]:
        """What the stacks see of the unseen batches."""
        return capture(self.model, self.layout.blocks, self.unseen, offload=self.offload)

    @torch.no_grad()
    def damage(self, kept: Mapping[str, int], dropped: Sequence[str] = ()) -> float:
        """Loss against the dense outputs with ``kept`` units per group and without the blocks ``dropped``."""
        selector = _InOrder({name: curve.order for name, curve in self.curves.items()})
        methods = replace(self.methods, selector=selector)
        audience = {name: Captured(seen.hidden.copy(), seen.calls) for name, seen in self.entering.items()}
        trial = _Trial(
            self.model,
            self.layout,
            methods,
            kept,
            self.few,
            self.seed,
            self.progress,
            dropped,
            offload=self.offload,
            audience=audience,
        )
        tail = self.tail  # of the dense model: before anything is spared
        self.progress.start(len(self.layout.groups), "trying on part of the data how to share the cuts")
        with ExitStack() as spared:
            for group in classifiers_of(self.model, self.layout):
                spared.enter_context(spare(self.model, group.name))
            trial.run_()
            self.progress.finish()
            return sum(tail.damage(name, [], seen.hidden) for name, seen in audience.items())


@dataclass(frozen=True)
class _Trial(FitRun):
    """A fit that leaves the model as it was: every block is compressed as a copy, which is given up once it has been
    passed by the fit's stream and by the ``audience``, hidden states of batches that it is not fitted on."""

    audience: Mapping[str, Captured] = field(default_factory=dict)

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
        stack = next(stack.name for stack in self.layout.stacks if path in stack.blocks)
        with spare(self.model, path) as block:
            plans = super()._block_(path, groups, calls, streams, batches, last, beyond)
            advance(block, self.audience[stack].calls[path], self.audience[stack].hidden)
        return plans


@dataclass(frozen=True)
class _InOrder(Selector):
    """Drops units in a given order. It looks at no statistics, but a trial is judged by its stream, so the fit has to
    pass data through the blocks even where neither selector nor compensator asks for any."""

    orders: Mapping[str, Tensor]
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        order = self.orders[problem.name]
        stay = torch.ones(problem.units, dtype=torch.bool)
        stay[order[: problem.units - keep]] = False
        return Selection(Reduction.prune(problem.units, torch.nonzero(stay).flatten()), order)


def _first(batches: Sequence[Batch]) -> list[Batch]:
    """The first batches, a quarter of the samples; at least one batch."""
    sizes = [len(next(iter(batch.inputs.values()))) for batch in batches]
    found, seen = list(batches[:1]), sum(sizes[:1])
    for batch, size in zip(batches[1:], sizes[1:], strict=True):
        if seen + size <= sum(sizes) / REHEARSED_FRACTION:
            found.append(batch)
            seen += size
    return found
