"""What is narrowed before what readouts are fitted on is measured: features that change when units or dimensions go."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.head_size import HeadReduction, turn_values
from optimum_grail.core.moments import Statistics
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.problem import GroupProblem, Selection
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.errors import ArchitectureError
from optimum_grail.fit.methods import Methods
from optimum_grail.models.matrix import owns_bias, to_matrix
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


def select(methods: Methods, problem: GroupProblem, keep: int) -> Selection:
    """Which ``keep`` units stay: the selector's choice, where there is one to be made."""
    if keep == problem.units:
        return Selection(Reduction.keep_all(problem.units))
    if keep == 0:
        return Selection(Reduction.drop_all(problem.units))
    return methods.selector(problem, keep)


def shrinks(group: ChannelGroup, pairs: Mapping[str, Tensor]) -> bool:
    """Whether the heads of ``group`` lose dimensions inside, where ``pairs`` stay by owner."""
    return group.inside is not None and group.owner in pairs


def shrink_ahead_(
    run: BlockRun,
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    widths: Mapping[str, int],
    pairs: Mapping[str, Tensor],
    methods: Methods,
) -> tuple[list[ChannelGroup], dict[str, HeadReduction], nn.Module | None]:
    """Take dimensions out of the heads of one stage: values turn towards what the student's attention puts out now.

    Args:
        run: the block that holds the groups.
        model: the whole student.
        groups: of the stage.
        widths: units that groups will keep; of those that keep none nothing is asked.
        pairs: rotation pairs that stay, by owner.
        methods: of the run.

    Returns:
        the groups as they are then, what was done by name, and a copy of the block from before, ``None`` if nothing
        was done.
    """
    shrinking = [group for group in groups if shrinks(group, pairs) and widths[group.name]]
    if not shrinking:
        return list(groups), {}, None
    found = features_alone(run, model, shrinking, held_out=False)
    done = {group.name: _reduction(model, group, found[group.name], pairs[group.owner], methods) for group in shrinking}
    whole = copy.deepcopy(run.block)
    items = [GroupPlan(group, Reduction.keep_all(group.units), None, inside=done[group.name]) for group in shrinking]
    apply_(model, Plan(items))
    return [group.resized(done[group.name].size) if group.name in done else group for group in groups], done, whole


def _reduction(
    model: nn.Module, group: ChannelGroup, statistics: Statistics, pairs: Tensor, methods: Methods
) -> HeadReduction:
    inside = group.inside
    if inside is None:
        raise ArchitectureError(f"The heads of {group.name!r} cannot shrink inside.")
    weight = to_matrix(model.get_submodule(group.consumer.module))
    groups = model.get_submodule(inside.value).get_parameter("weight").shape[0] // inside.size
    affine = methods.compensator.wants_bias and owns_bias(model, group)
    values, outputs = turn_values(statistics.moments, weight, inside.size, groups, 2 * len(pairs), affine)
    return HeadReduction(pairs, values, outputs)
