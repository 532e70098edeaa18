"""Rehearsal: the fit on a few batches, to judge widths by what they really do instead of by prediction.

Curves and sensitivities are measured one group at a time; where much goes at once, damages do not add up. A rehearsal
runs the whole fit on a quarter of the samples, one block at a time on a copy, and measures the loss on others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from optimum_grail.core.contracts import Selector
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.core.reduction import Reduction
from optimum_grail.data.batches import Batch
from optimum_grail.data.portion import Portion
from optimum_grail.fit.classifier import classifiers_of
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.models.layout import Layout, Stack
from optimum_grail.report.progress import Progress, Silent
from optimum_grail.streams.blocks import advance
from optimum_grail.streams.capture import Captured, Order, capture
from optimum_grail.streams.masking import capture_fed, spare
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
    def _rows(self) -> Portion:
        return Portion.of(self.batches)

    @cached_property
    def few(self) -> Portion:
        """What is fitted on: a quarter of the samples of every split, at least one batch of each."""
        whole = self._rows.whole
        parts = ([batch for batch in whole if batch.split == name] for name in ("halves", "fit", "held"))
        return self._rows.again([batch for part in parts for batch in _first(part)])

    @cached_property
    def unseen(self) -> Portion:
        """What the loss is measured on: a quarter of the others, held out if possible; the same if there are none."""
        chosen = {id(batch) for batch in self.few.whole}
        rest = [batch for batch in self._rows.whole if id(batch) not in chosen]
        rest.sort(key=lambda batch: batch.split != "held")
        return self._rows.again(_first(rest) or self.few.whole)

    @cached_property
    def tail(self) -> Tail:
        """The dense model's outputs on unseen batches."""
        return Tail.of(self.model, self.layout, self.unseen)

    @cached_property
    def entering(self) -> dict[str, Captured]:
        """What the stacks that no other feeds see of the unseen batches."""
        free = self.tail.order.free
        blocks = {name: self.layout.blocks[name] for name in free}
        return capture(self.model, blocks, self.unseen, offload=self.offload, order=Order(free))

    @torch.no_grad()
    def damage(self, kept: Mapping[str, int], dropped: Sequence[str] = ()) -> float:
        """Loss against the dense outputs with ``kept`` units per group and without the blocks ``dropped``."""
        selector = _InOrder({name: curve.order for name, curve in self.curves.items()})
        methods = replace(self.methods.rehearsed(), selector=selector)
        order = self.tail.order  # of the dense model: before anything is spared
        self.progress.start(len(self.layout.groups), "trying on part of the data how to share the cuts")
        with ExitStack() as spared:
            for group in classifiers_of(self.model, self.layout):
                spared.enter_context(spare(self.model, group.name))
            audience = _Audience(self, dropped, order.feeding, spared)
            FitRun(
                self.model,
                self.layout,
                methods,
                kept,
                self.few,
                self.seed,
                self.progress,
                dropped,
                offload=self.offload,
                around=audience.around,
            ).run_()
            self.progress.finish()
            left = {name: seen.hidden for name, seen in audience.seen.items()}
            parts = [left] if order.fed else [{name: states} for name, states in left.items()]
            return sum(self.tail.loss(part) for part in parts)


@dataclass(frozen=True)
class _Audience:
    """Hidden states of batches that a fit does not see. They pass every block once it has been compressed, which leaves
    the model as it was: what is compressed is a copy.

    Args:
        rehearsal: whose model and unseen batches they are.
        dropped: paths of blocks that they pass by.
        feeding: stacks whose copies later stacks are fed by.
        spared: what such copies stay in the model for.
        seen: what the stacks reached so far see of the batches; at last, what leaves them.
    """

    rehearsal: Rehearsal
    dropped: Sequence[str]
    feeding: Collection[str]
    spared: ExitStack
    seen: dict[str, Captured] = field(default_factory=dict)

    @contextmanager
    def around(self, path: str) -> Iterator[None]:
        """Put a copy in the place of a block, let it be compressed, pass it, and give it up."""
        model = self.rehearsal.model
        stack = next(stack for stack in self.rehearsal.layout.stacks if path in stack.blocks)
        if stack.name not in self.seen:
            self.seen[stack.name] = self._entering(stack)
        seen = self.seen[stack.name]
        with ExitStack() as own:
            keeper = self.spared if stack.name in self.feeding else own
            block = keeper.enter_context(spare(model, path))
            yield
            advance(block, seen.calls[path], seen.hidden)
            del block

    def _entering(self, stack: Stack) -> Captured:
        run = self.rehearsal
        if stack.name in run.tail.order.fed:
            return capture_fed(run.model, run.layout, stack, self.dropped, run.unseen, run.offload)
        return Captured(run.entering[stack.name].hidden.copy(), run.entering[stack.name].calls)


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
    sizes = [batch.size for batch in batches]
    found, seen = list(batches[:1]), sum(sizes[:1])
    for batch, size in zip(batches[1:], sizes[1:], strict=True):
        if seen + size <= sum(sizes) / REHEARSED_FRACTION:
            found.append(batch)
            seen += size
    return found
