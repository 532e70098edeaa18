"""Survey: what an allocation has to know before the fit, measured on the dense model, one block at a time.

For every group: the error curve of one greedy elimination on dense statistics, and the *sensitivity*, the rise of the
calibration loss when only this group is pruned and compensated at one half, divided by its error there. Nothing else
is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.calibration.batches import PROBE_FRACTION, Batch
from optimum_grail.calibration.probe import Probe, Wanted
from optimum_grail.calibration.stream import Call, Captured, capture, check_chain
from optimum_grail.core.elimination import eliminate
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.problem import GroupProblem
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import NormalEquations
from optimum_grail.models.layout import Layout, Stack
from optimum_grail.models.matrix import from_matrix
from optimum_grail.pipeline.blocks import Batches
from optimum_grail.pipeline.problems import collector_for, norm_of, problem_of, to_patches
from optimum_grail.pipeline.tail import Tail
from optimum_grail.report.progress import Progress

DAMPING = 1e-3
RIDGE = 1e-3


@dataclass(frozen=True)
class Curve:
    """What the survey found out about one group.

    Args:
        errors: float64, ``[units]``; ``errors[t]`` is the error after ``t`` removals relative to dropping everything.
        order: removal order, int64.
        sensitivity: rise of the calibration loss per unit of relative error.
    """

    errors: Tensor
    order: Tensor
    sensitivity: float

    def damage(self, width: int) -> float:
        """Predicted rise of the calibration loss at ``width`` kept units."""
        return self.sensitivity * float(self.errors[len(self.errors) - width])


@dataclass(frozen=True)
class Survey:
    """The survey of a dense model.

    Args:
        model: in eval mode; unchanged afterwards.
        layout: its stacks and groups.
        batches: calibration batches.
        progress: told once per group.
    """

    model: nn.Module
    layout: Layout
    batches: Sequence[Batch]
    progress: Progress

    @torch.no_grad()
    def run(self) -> dict[str, Curve]:
        """Error curve and sensitivity of every group, by name."""
        stacks = {stack.name: stack.blocks for stack in self.layout.stacks}
        for stack in self.layout.stacks:
            check_chain(self.model, stack.blocks, self.batches[0])
        captured = capture(self.model, stacks, self.batches)
        few = self._few()
        tail = Tail.of(self.model, self.layout, [self.batches[index] for index in few])
        curves: dict[str, Curve] = {}
        for stack in self.layout.stacks:
            curves |= self._stack(stack, captured[stack.name], tail, few)
        return curves

    def _few(self) -> list[int]:
        """Indices of the batches that sensitivities are measured on: at most an eighth of the samples."""
        sizes = [len(next(iter(batch.inputs.values()))) for batch in self.batches]
        few, seen = [0], sizes[0]
        for index in range(1, len(sizes)):
            if seen + sizes[index] <= sum(sizes) / PROBE_FRACTION:
                few.append(index)
                seen += sizes[index]
        return few

    def _stack(self, stack: Stack, captured: Captured, tail: Tail, few: Sequence[int]) -> dict[str, Curve]:
        batches = Batches.of(self.batches, stack.spec.mask)
        hidden = captured.hidden
        curves: dict[str, Curve] = {}
        for position, path in enumerate(stack.blocks):
            groups = [group for group in self.layout.groups if group.block == path]
            inputs = [hidden[index] for index in few]
            problems = self._measure(path, groups, captured.calls[path], hidden, batches)
            later = [(p, [captured.calls[p][index] for index in few]) for p in stack.blocks[position:]]
            for group, problem in zip(groups, problems, strict=True):
                damage = partial(tail.damage, stack.name, later, inputs)
                curves[group.name] = self._curve(group, problem, damage)
                self.progress.update(1, f"survey {group.name}")
            del captured.calls[path]
        return curves

    def _measure(
        self,
        path: str,
        groups: Sequence[ChannelGroup],
        calls: Sequence[Call],
        hidden: list[Tensor],
        batches: Batches,
    ) -> list[GroupProblem]:
        """Dense statistics of the block's groups; ``hidden`` moves on to the next block."""
        collectors = [collector_for(self.model, group, held_out=False) for group in groups]
        probe = Probe(self.model.get_submodule(path), path, groups, Wanted(features=True))
        for index, call in enumerate(calls):
            output = probe.run(call, hidden[index])
            for collector in collectors:
                record = probe.records[collector.group.name]
                collector.add(record, None, batches.masks[index], "fit")
            hidden[index] = hidden[index] if output is None else output
        return [problem_of(self.model, c.group, c.statistics(), 0) for c in collectors]

    def _curve(self, group: ChannelGroup, problem: GroupProblem, damage: Callable[[], float]) -> Curve:
        gram = problem.measured.moments.covariance(problem.owns_bias)
        run = eliminate(problem.weight, gram, problem.units, problem.units - 1, DAMPING)
        errors = run.errors / max(run.total, 1e-300)
        half = max(problem.units // 2, 1)
        reduction = Reduction.prune(problem.units, _kept(run.order, problem.units, half))
        equations = NormalEquations.of(problem.weight, problem.measured.moments, None, reduction)
        readout = equations.fit(RIDGE, "diagonal", "naive", problem.owns_bias).at(0.0)
        with _masked(self.model, group, problem, reduction, readout):
            rise = damage()
        return Curve(errors, run.order, max(rise, 0.0) / max(float(errors[problem.units - half]), 1e-12))


@contextmanager
def _masked(
    model: nn.Module, group: ChannelGroup, problem: GroupProblem, reduction: Reduction, readout: Readout
) -> Iterator[None]:
    """The model with this group pruned and compensated at full width: dropped columns are zero; put back afterwards."""
    consumer: Any = model.get_submodule(group.consumer.module)
    full = torch.zeros_like(problem.weight)
    columns = (reduction.kept[:, None] * problem.span + torch.arange(problem.span)).flatten()
    full[:, columns.to(full.device)] = readout.weight
    weight = from_matrix(to_patches(Readout(full), model, group).weight, consumer)
    norm = norm_of(model, group)
    shift = readout.bias
    with ExitStack() as stack:
        stack.enter_context(_replaced(consumer.weight, weight))
        if shift is not None and consumer.bias is not None:
            stack.enter_context(_replaced(consumer.bias, consumer.bias + shift))
        elif shift is not None and norm is not None and norm.running_mean is not None:
            stack.enter_context(_replaced(norm.running_mean, norm.running_mean - shift))
        yield


@contextmanager
def _replaced(tensor: Tensor, value: Tensor) -> Iterator[None]:
    original = tensor.data
    tensor.data = value.detach().to(original)
    try:
        yield
    finally:
        tensor.data = original


def _kept(order: Tensor, units: int, keep: int) -> Tensor:
    mask = torch.ones(units, dtype=torch.bool)
    mask[order[: units - keep]] = False
    return torch.nonzero(mask).flatten()
