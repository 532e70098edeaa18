"""Groups that are narrowed before what their readouts are fitted on is measured: features that change when units go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.moments import Statistics
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.problem import GroupProblem
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.models.surgery import apply_
from optimum_grail.streams.blocks import BlockRun
from optimum_grail.streams.probe import Wanted
from optimum_grail.streams.problems import collector_for, to_patches


def features_alone(
    run: BlockRun, model: nn.Module, groups: Sequence[ChannelGroup], held_out: bool
) -> dict[str, Statistics]:
    """Statistics of the features of ``groups`` as they are now, by group; the dense side of ``run`` is not touched.

    Args:
        run: the block that holds the groups.
        model: the whole student.
        groups: some of one stage.
        held_out: whether the subsets of the rows are kept apart.
    """
    if not groups:
        return {}
    collectors = [collector_for(model, group, held_out, run.batches.ranks) for group in groups]
    replace(run, targets=None, shortcuts=None).measure(collectors, Wanted(features=True))
    return {collector.group.name: collector.statistics(run.batches.crossed) for collector in collectors}


def narrow_ahead_(model: nn.Module, group: ChannelGroup, reduction: Reduction, problem: GroupProblem) -> ChannelGroup:
    """Select or fold the producers, select or sum the consumer's columns, and return the group in its new shape."""
    readout = Readout(reduction.lift_columns(problem.weight, problem.span))
    apply_(model, Plan([GroupPlan(group, reduction, to_patches(readout, model, group))]))
    return group.narrowed(reduction.slots)
