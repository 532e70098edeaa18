"""Refitting what a stage has compressed: producers first, then the consumer once more on what they put out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.producers import ProducerProblem
from optimum_grail.core.reduction import Reduction
from optimum_grail.fit.methods import Methods
from optimum_grail.models.matrix import owns_bias
from optimum_grail.models.surgery import apply_
from optimum_grail.streams.blocks import BlockRun
from optimum_grail.streams.memory import release
from optimum_grail.streams.passage import Passage
from optimum_grail.streams.problems import collector_for, problem_of, scale_behind, to_patches

REFITTABLE = ("mlp", "conv")
"""Kinds of groups whose units go their way from producers to consumer each by itself."""


def refittable(methods: Methods, groups: Iterable[ChannelGroup], widths: Mapping[str, int]) -> list[str]:
    """Names of the groups whose producers are refitted: not those of attention, which mixes rows, and not of what loses
    nothing or is gone altogether."""
    able = [group for group in groups if methods.refit.changes_producers and group.kind in REFITTABLE]
    return [group.name for group in able if 0 < widths[group.name] < group.units]


def refit_(
    model: nn.Module, run: BlockRun, plans: Sequence[GroupPlan], names: Sequence[str], methods: Methods, seed: int
) -> list[GroupPlan]:
    """Refit groups that have just been compressed, one after the other.

    Args:
        model: the student, with the groups compressed.
        run: of their block; the dense side's records of the groups to refit are kept, and given up at last.
        plans: what was done to the groups.
        names: of those to refit.
        methods: of the run.
        seed: of this run's random choices.

    Returns:
        the plans with what was done beyond them; as they were where nothing better was found.
    """
    done = [_refitted_(model, run, plan, methods, seed) if plan.group.name in names else plan for plan in plans]
    run.recall([])
    return done


def _refitted_(model: nn.Module, run: BlockRun, plan: GroupPlan, methods: Methods, seed: int) -> GroupPlan:
    group = plan.group.narrowed(plan.reduction.slots)
    passage = Passage.of(model, run, group, methods.wanted, scale_behind(model, group), methods.refit.most_rows)
    if passage is None:
        return plan
    problem = ProducerProblem(
        name=group.name,
        weight=passage.weight,
        affine=owns_bias(model, group),
        produce=passage.produce,
        consume=passage.consume,
        look=passage.look,
    )
    found = methods.refit(problem)
    release()
    if found.changes is None:
        return plan
    collector = collector_for(model, group, "held-out" in methods.needs, run.batches.ranks)
    with passage.changed(found.changes):
        run.remeasure(collector, methods.wanted)
    statistics = collector.statistics(run.batches.crossed)
    whole = Reduction.keep_all(group.units)
    compensation = methods.compensator(problem_of(model, group, statistics, seed), whole)
    if _worse(compensation.diagnostics, plan.diagnostics):
        return plan
    readout = to_patches(compensation.readout, model, group)
    apply_(model, Plan([GroupPlan(group, whole, readout, changes=found.changes)]))
    release()
    diagnostics = {**plan.diagnostics, **compensation.diagnostics, "producers": 1 - found.after / found.before}
    diagnostics |= {
        key: plan.diagnostics[key] for key in ("plain_error", "plain_held_error") if key in plan.diagnostics
    }
    return replace(plan, diagnostics=diagnostics, refitted=True)


def _worse(now: Any, before: Any) -> bool:
    """Whether the consumer does worse than before on the rows it was not fitted on, where that is known."""
    known = now.get("held_error"), before.get("held_error")
    return None not in known and known[0] >= known[1]
