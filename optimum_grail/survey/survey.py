"""Survey: what an allocation has to know before the fit, measured on the dense model, one block at a time.

The dense stream walks once through the blocks and feeds the signals that were asked for
(:mod:`optimum_grail.signals._signal` tells what they see, and when). Nothing else is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.needs import Need
from optimum_grail.core.problem import GroupProblem
from optimum_grail.data.batches import PROBE_FRACTION, Batch, few_of
from optimum_grail.data.portion import Portion
from optimum_grail.errors import ConfigError
from optimum_grail.models.layout import Layout, Stack
from optimum_grail.models.residence import resident
from optimum_grail.report.environment import hardware
from optimum_grail.report.progress import Progress
from optimum_grail.signals import SIGNALS, Dense, Seen, Signal, Tensors, Visit, Work
from optimum_grail.streams.blocks import Batches
from optimum_grail.streams.capture import Captured, capture, order_of
from optimum_grail.streams.memory import release, released_at_once
from optimum_grail.streams.probe import Probe, Wanted
from optimum_grail.streams.problems import collector_for, problem_of
from optimum_grail.streams.tail import Tail
from optimum_grail.survey.findings import Findings
from optimum_grail.survey.signature import signature

Found = dict[str, dict[str, Tensor]]
"""Tensors by place, by signal."""


def signals_of(needs: Iterable[Need]) -> dict[str, Signal]:
    """The signals among ``needs``, by name.

    Raises:
        ConfigError: two of them find the same, such as two kinds of error curves.
    """
    signals: dict[str, Signal] = {name: SIGNALS.get(name)() for name in sorted(set(needs) & set(SIGNALS.names()))}
    finders: dict[str, str] = {}
    for name, signal in signals.items():
        other = finders.setdefault(signal.finds or name, name)
        if other != name:
            raise ConfigError(f"The signals {other!r} and {name!r} both find {signal.finds!r}. Ask for one of them.")
    return signals


def cost_of(signals: Iterable[Signal], work: Work) -> float:
    """Seconds of a survey: the walk, the moments, the tail, and what each signal does besides."""
    signals = list(signals)
    cost = sum(signal.cost(work) for signal in signals)
    cost += work.forward * any(signal.wanted is not None for signal in signals)
    cost += work.gram * any(signal.moments for signal in signals)
    return cost + (work.probe + work.outputs) * any(signal.tail for signal in signals)


def memory_of(signals: Iterable[Signal], work: Work) -> float:
    """Bytes that signals keep while the walk goes on, and the dense outputs that losses are measured against."""
    signals = list(signals)
    kept = 2 * work.stream / PROBE_FRACTION * any(signal.tail for signal in signals)
    return kept + sum(signal.memory(work) for signal in signals)


@dataclass(frozen=True)
class Survey:
    """The survey of a dense model.

    Args:
        model: in eval mode; unchanged afterwards.
        layout: its stacks and groups.
        batches: calibration batches; a portion where several processes share them.
        progress: told once per group.
        needs: what to find out: names of signals; other needs are not the survey's.
        seed: of the draws that gradients are taken at.
        offload: keep the stream in files of a temporary folder instead of in memory.
    """

    model: nn.Module
    layout: Layout
    batches: Sequence[Batch]
    progress: Progress
    needs: frozenset[Need] = frozenset({"gradient-curves"})
    seed: int = 0
    offload: bool = False

    @cached_property
    def signals(self) -> dict[str, Signal]:
        """The signals asked for, by name."""
        return signals_of(self.needs)

    @cached_property
    def _walking(self) -> dict[str, Signal]:
        """The signals that need the walk through the blocks."""
        return {name: signal for name, signal in self.signals.items() if signal.wanted is not None}

    @property
    def depends(self) -> dict[str, Any]:
        """JSON values: what the findings depend on beside the model, its layout and the data. Where the stream is kept
        is no part of it."""
        signals = {name: [signature(signal), signal.version] for name, signal in self.signals.items()}
        timed = any(signal.timed for signal in self.signals.values())
        machine = {"threads": torch.get_num_threads(), **hardware()} if timed else None
        return {"signals": signals, "seed": self.seed, "machine": machine}

    def run(self) -> Findings:
        """Everything asked for.

        Raises:
            ArchitectureError: the blocks of a stack cannot be calibrated one by one.
            StatisticsError: activations of a group are not finite, or all its rows are padding.
        """
        with released_at_once(self.offload), torch.no_grad():
            found = self._found()
        ranks = self._rows.ranks
        agreed = {
            name: ranks.agreed(f"the signal {name!r}", signal.after(found[name]))
            for name, signal in self.signals.items()
        }
        return Findings.from_tensors(
            {
                f"{signal.finds or name}/{place}": tensor
                for name, signal in self.signals.items()
                for place, tensor in agreed[name].items()
            }
        )

    @cached_property
    def _rows(self) -> Portion:
        return Portion.of(self.batches)

    def _found(self) -> Found:
        rows = self._rows
        order = order_of(self.model, self.layout.blocks, rows.sample)
        few = few_of(rows.whole)
        tail = None
        if any(signal.tail for signal in self.signals.values()):
            tail = Tail.of(self.model, self.layout, rows.chosen(few), order)
        own = [index for index, number in enumerate(rows.numbers) if number in few]
        dense = Dense(self.model, self.layout, rows, own, self.seed, order, self.offload, tail)
        found = {name: dict(signal.before(dense)) for name, signal in self.signals.items()}
        if self._walking:
            captured = capture(self.model, self.layout.blocks, rows, offload=self.offload, order=order)
            for stack in self.layout.stacks:
                self._walk(dense, stack, captured[stack.name], found)
        return found

    def _walk(self, dense: Dense, stack: Stack, captured: Captured, found: Found) -> None:
        """Run one stack block by block and add what its signals measure to ``found``."""
        for position, path in enumerate(stack.blocks):
            groups = [group for group in self.layout.of_block(path) if group.units]  # of others nothing is left
            inputs = [captured.hidden[index] for index in dense.few]
            with resident(self.model, path):
                problems, sums = self._pass(stack, path, groups, captured)
                release()
                visit = Visit(dense, stack, position, groups, captured.calls, inputs, problems)
                for name, signal in self._walking.items():
                    found[name] |= signal.block(visit, sums[name], found[name])
            for group in self.layout.of_block(path):
                self.progress.update(1, group.name)
            del captured.calls[path], problems, sums
            release()

    def _pass(
        self, stack: Stack, path: str, groups: Sequence[ChannelGroup], captured: Captured
    ) -> tuple[Mapping[str, GroupProblem], Mapping[str, Tensors]]:
        """Send every batch through a block: the groups with their statistics, and what signals sum up; the captured
        hidden states move on to the next block."""
        wanted, moments = self._wanted
        collectors = [
            collector_for(self.model, group, held_out=False, ranks=self._rows.ranks) for group in groups if moments
        ]
        sums: Found = {name: {} for name in self._walking}
        probe = Probe(self.model.get_submodule(path), path, groups, wanted)
        masks = Batches.of(self._rows, stack.mask).masks
        for index, (call, mask) in enumerate(zip(captured.calls[path], masks, strict=True)):
            before = captured.hidden[index]
            after = probe.run(call, before)
            for collector in collectors:
                collector.add(probe.records[collector.group.name], None, mask, 0)
            if after is not None:
                self._add_(sums, Seen(path, before, after, probe.records, mask))
                captured.hidden[index] = after
        if self._rows.ranks.count > 1:
            sums = self._added(path, sums)
        return {c.group.name: problem_of(self.model, c.group, c.statistics(), 0) for c in collectors}, sums

    def _added(self, path: str, sums: Found) -> Found:
        """What signals have summed up over the batches of all processes."""
        flat = {f"{name}\n{place}": tensor for name, found in sums.items() for place, tensor in found.items()}
        whole = self._rows.ranks.added(f"what signals sum up at {path}", flat)
        found: Found = {name: {} for name in sums}
        for key, tensor in whole.items():
            name, _, place = key.partition("\n")
            found[name][place] = tensor
        return found

    def _add_(self, sums: Found, seen: Seen) -> None:
        for name, signal in self._walking.items():
            for place, tensor in signal.batch(seen).items():
                sums[name][place] = sums[name][place] + tensor if place in sums[name] else tensor

    @cached_property
    def _wanted(self) -> tuple[Wanted, bool]:
        """What is recorded of each group while a block runs, and whether its moments are summed up."""
        asked = [signal.wanted for signal in self._walking.values() if signal.wanted is not None]
        moments = any(signal.moments for signal in self._walking.values())
        features = moments or any(item.features for item in asked)
        return Wanted(features, any(item.output for item in asked), any(item.stream for item in asked)), moments
