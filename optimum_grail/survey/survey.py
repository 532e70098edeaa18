"""Survey: what an allocation has to know before the fit, measured on the dense model, one block at a time.

For every group, as far as it is asked for: the error curve of one greedy elimination on dense statistics; the
*sensitivity*, the rise of the calibration loss per unit of that error; scores of its units. For every block: how much
it changes its input, and the rise of the loss without it. Nothing else is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from optimum_grail.core.elimination import Elimination, eliminate
from optimum_grail.core.fluctuation import fluctuation
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.problem import GroupProblem, Need
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import NormalEquations
from optimum_grail.data.batches import PROBE_FRACTION, Batch
from optimum_grail.models.layout import Layout, Stack
from optimum_grail.report.progress import Progress, Silent
from optimum_grail.streams.blocks import Batches
from optimum_grail.streams.calls import Call
from optimum_grail.streams.capture import Captured, capture
from optimum_grail.streams.gradients import mask_gradients
from optimum_grail.streams.masking import masked
from optimum_grail.streams.memory import released_at_once
from optimum_grail.streams.probe import Probe, Wanted
from optimum_grail.streams.problems import collector_for, problem_of
from optimum_grail.streams.states import States
from optimum_grail.streams.tail import Tail
from optimum_grail.survey.findings import Curve, Findings, bent
from optimum_grail.survey.influence import Influence
from optimum_grail.survey.sensitivity import curvatures, sensitivity
from optimum_grail.survey.timing import latency, positions

DAMPING = 1e-3
RIDGE = 1e-3
BENDS = (2, 4, 8)
"""Parts of its units that a group keeps where the damage of bent curves is measured."""
REHEARSED: frozenset[Need] = frozenset({"curves", "bent_curves"})
"""Curves whose scale is measured by short forward passes."""
CURVES: frozenset[Need] = REHEARSED | {"gradient_curves", "error_curves"}
STATISTICS: frozenset[Need] = CURVES | {"fluctuation", "outliers"}
"""What is computed from the statistics of groups."""
SURVEYED: frozenset[Need] = STATISTICS | {
    *("information", "influence", "part_influence", "drops", "positions", "latency")
}
"""What a survey can find out."""


@dataclass(frozen=True)
class Survey:
    """The survey of a dense model.

    Args:
        model: in eval mode; unchanged afterwards.
        layout: its stacks and groups.
        batches: calibration batches.
        progress: told once per group.
        needs: what to find out, a part of :data:`SURVEYED`.
        seed: of the draws that gradients are taken at.
        offload: keep the stream in files of a temporary folder instead of in memory.
    """

    model: nn.Module
    layout: Layout
    batches: Sequence[Batch]
    progress: Progress
    needs: frozenset[Need] = frozenset({"curves"})
    seed: int = 0
    offload: bool = False

    def run(self) -> Findings:
        """Everything asked for."""
        with released_at_once(self.offload):
            return self._findings()

    @torch.no_grad()
    def _findings(self) -> Findings:
        captured = capture(self.model, self.layout.blocks, self.batches, offload=self.offload)
        few = few_of(self.batches)
        tail = None
        if self.needs & (REHEARSED | {"drops"}):
            tail = Tail.of(self.model, self.layout, [self.batches[index] for index in few])
        curves: dict[str, Curve] = {}
        signals: dict[str, dict[str, Tensor]] = defaultdict(dict)
        if "positions" in self.needs:
            signals["positions"] = positions(self.model, self.layout, self.batches[0])
        if "information" in self.needs:
            gradients = mask_gradients(self.model, self.layout, self.batches, self.seed, Silent())
            signals["information"] = {name: found.square().sum(0).cpu() for name, found in gradients.items()}
        bends: Mapping[str, Tensor] = {}
        if "gradient_curves" in self.needs:
            bends = curvatures(self.model, self.layout, [self.batches[index] for index in few], self.seed)
        for stack in self.layout.stacks:
            walk = _Walk(self, stack, captured[stack.name], tail, few, bends)
            walk.run(curves, signals)
        return Findings(curves, dict(signals))


def few_of(batches: Sequence[Batch]) -> list[int]:
    """Indices of the batches that short forward passes take: at most an eighth of the samples."""
    sizes = [batch.size for batch in batches]
    few, seen = [0], sizes[0]
    for index in range(1, len(sizes)):
        if seen + sizes[index] <= sum(sizes) / PROBE_FRACTION:
            few.append(index)
            seen += sizes[index]
    return few


@dataclass
class _Walk:
    """The survey's way through one stack."""

    survey: Survey
    stack: Stack
    captured: Captured
    tail: Tail | None
    few: Sequence[int]
    curvatures: Mapping[str, Tensor]
    batches: Batches = field(init=False)

    def __post_init__(self) -> None:
        self.batches = Batches.of(self.survey.batches, self.stack.spec.mask)

    def run(self, curves: dict[str, Curve], signals: dict[str, dict[str, Tensor]]) -> None:
        """Measure block by block; fills ``curves`` and ``signals``."""
        needs, hidden = self.survey.needs, self.captured.hidden
        for position, path in enumerate(self.stack.blocks):
            inputs = [hidden[index] for index in self.few]
            influences, problems = self._measure(path, self.captured.calls[path], hidden)
            for group in self._groups(path):
                if "influence" in needs:
                    signals["influence"][group.name] = influences[path].value
                if group.name in influences:
                    signals["part_influence"][group.name] = influences[group.name].value
                if group.name in problems:
                    self._scores(group.name, problems[group.name], signals)
                if needs & CURVES:
                    curves[group.name] = self._curve(group, problems[group.name], position, inputs)
                self.survey.progress.update(1, f"survey {group.name}")
            if "latency" in needs:
                self._time(path, inputs[0], signals["latency"])
            if needs & {"drops", "influence"} and self.stack.spec.depth_field:
                block = self.survey.model.get_submodule(path)
                signals["parameters"][path] = torch.tensor(sum(p.numel() for p in block.parameters()))
            if "drops" in needs and self.stack.spec.depth_field:
                signals["drops"][path] = torch.tensor(self._damage(position + 1, inputs), dtype=torch.float64)
            del self.captured.calls[path]

    def _groups(self, path: str) -> list[ChannelGroup]:
        """The groups of a block; an earlier compression may have left nothing of others."""
        return [group for group in self.survey.layout.of_block(path) if group.units]

    def _measure(
        self, path: str, calls: Sequence[Call], hidden: States
    ) -> tuple[Mapping[str, Influence], Mapping[str, GroupProblem]]:
        """The influence of a block, by its path, and of its sub-blocks, by their groups' names, as far as asked for;
        and the dense statistics of its groups; ``hidden`` moves on to the next block."""
        model, groups = self.survey.model, self._groups(path)
        wanted, apart = bool(self.survey.needs & STATISTICS), "part_influence" in self.survey.needs
        collectors = [collector_for(model, group, held_out=False) for group in groups if wanted]
        probe = Probe(model.get_submodule(path), path, groups, Wanted(features=wanted, output=apart, stream=apart))
        influences = {group.name: Influence() for group in groups if apart and not group.fewest}
        if "influence" in self.survey.needs:
            influences[path] = Influence()
        for index, call in enumerate(calls):
            before = hidden[index]
            output = probe.run(call, before)
            for collector in collectors:
                record = probe.records[collector.group.name]
                collector.add(record, None, self.batches.masks[index], "fit")
            for name in influences.keys() & probe.records.keys():
                record = probe.records[name]
                if record.stream is not None and record.output is not None:
                    influences[name].add(record.stream - record.output, record.stream, self.batches.masks[index])
            if output is not None:
                if path in influences:
                    influences[path].add(before, output, self.batches.masks[index])
                hidden[index] = output
        return influences, {c.group.name: problem_of(model, c.group, c.statistics(), 0) for c in collectors}

    def _time(self, path: str, hidden: Tensor, found: dict[str, Tensor]) -> None:
        """Seconds of a block, and at every width of its groups; groups of one tie are timed once."""
        model, call = self.survey.model, self.captured.calls[path][self.few[0]]
        found[path] = latency(model, path, call, hidden)
        for group in self._groups(path):
            known = (other.name for other in self.survey.layout.groups if other.tie == group.tie)
            twin = next((found[name] for name in known if name in found), None)
            found[group.name] = latency(model, path, call, hidden, group) if twin is None else twin

    def _scores(self, name: str, problem: GroupProblem, signals: dict[str, dict[str, Tensor]]) -> None:
        if "fluctuation" in self.survey.needs:
            signals["fluctuation"][name] = fluctuation(problem).cpu()
        if "outliers" in self.survey.needs:
            norms = problem.measured.moments.energy.clamp(min=0).sqrt()
            signals["outliers"][name] = (problem.weight.abs().sum(0) * norms).cpu()

    def _curve(self, group: ChannelGroup, problem: GroupProblem, position: int, inputs: Sequence[Tensor]) -> Curve:
        gram = problem.measured.moments.covariance(problem.owns_bias)
        run = eliminate(problem.weight, gram, problem.units, problem.units - 1, DAMPING)
        errors = torch.cat([run.errors / max(run.total, 1e-300), torch.ones(1, dtype=torch.float64)])
        if group.name in self.curvatures:
            return Curve(errors, run.order, sensitivity(problem, self.curvatures[group.name]))
        if not self.survey.needs & REHEARSED:
            return Curve(errors, run.order, 1.0)
        points = []
        for part in BENDS if "bent_curves" in self.survey.needs else BENDS[:1]:
            keep = max(problem.units // part, 1)
            with masked(self.survey.model, group, problem, *self._pruned(problem, run, keep)):
                rise = max(self._damage(position, inputs), 0.0)
            points.append((float(errors[problem.units - keep]), rise))
        if len(points) > 1:
            return Curve(bent(errors, points), run.order, 1.0)
        return Curve(errors, run.order, points[0][1] / max(points[0][0], 1e-12))

    def _pruned(self, problem: GroupProblem, run: Elimination, keep: int) -> tuple[Reduction, Readout]:
        """The group at ``keep`` units and compensated."""
        reduction = Reduction.prune(problem.units, _kept(run.order, problem.units, keep))
        equations = NormalEquations.of(problem.weight, problem.measured.moments, None, reduction)
        return reduction, equations.fit(RIDGE, "diagonal", "naive", problem.owns_bias).at(0.0)

    def _damage(self, position: int, inputs: Sequence[Tensor]) -> float:
        """Loss of the model as it is now, from the block at ``position`` on."""
        if self.tail is None:
            return 0.0
        calls = self.captured.calls
        later = [(p, [calls[p][index] for index in self.few]) for p in self.stack.blocks[position:]]
        return self.tail.damage(self.stack.name, later, inputs)


def _kept(order: Tensor, units: int, keep: int) -> Tensor:
    mask = torch.ones(units, dtype=torch.bool)
    mask[order[: units - keep]] = False
    return torch.nonzero(mask).flatten()
