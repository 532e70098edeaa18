"""The law of channels inside experts: dropping some is setting them to zero, in every expert its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.banks import DOWN, channels_first
from optimum_grail.models.laws import close
from optimum_grail.models.matrix import copies_of, to_matrix
from optimum_grail.models.surgery import apply_
from optimum_grail.models.trial import FAILURES, cannot_run


def every_expert(model: nn.Module, group: ChannelGroup, keep: Tensor) -> Reduction:
    """The reduction that leaves the channels ``keep`` in every expert: int64, ``[k]``, or ``[E, k]`` where each has its
    own."""
    copies = copies_of(model, group)
    first = torch.arange(copies)[:, None] * group.units
    return Reduction.prune(copies * group.units, (keep.expand(copies, -1) + first).flatten())


def check_channels(model: nn.Module, group: ChannelGroup, outputs: Callable[[nn.Module], Sequence[Tensor]]) -> None:
    """A model whose experts have lost channels, each other ones, is the same as one where these are zero.

    Args:
        model: the example.
        group: channels inside the experts of one block.
        outputs: what a model puts out on the example's inputs.

    Raises:
        ArchitectureError: it is not, nothing changes at all, or the narrow model does not run.
    """
    copies, count = copies_of(model, group), group.units // 2
    keep = (2 * torch.arange(count) + torch.arange(copies)[:, None] % 2).sort(1).values
    reduction = every_expert(model, group, keep)
    narrow, masked = copy.deepcopy(model), copy.deepcopy(model)
    weight = reduction.lift_columns(to_matrix(model.get_submodule(group.consumer.module)))
    apply_(narrow, Plan([GroupPlan(group, reduction, Readout(weight))]))
    try:
        found = outputs(narrow)
    except FAILURES as error:
        raise cannot_run(group, count, error, narrow) from error
    bank = masked.get_submodule(group.consumer.module)
    gone = (reduction.assignment < 0).unflatten(0, (copies, -1))
    channels_first(bank, DOWN, bank.get_parameter(DOWN).data)[gone] = 0.0
    expected = outputs(masked)
    if all(map(close, expected, outputs(model))):
        raise ArchitectureError(
            f"Setting channels inside the experts of {group.name!r} to zero changes no output of the example. Give it "
            "weights that are not zero, and more tokens."
        )
    if not all(map(close, found, expected)):
        raise ArchitectureError(
            f"Dropping channels inside the experts of {group.name!r} is not the same as setting them to zero. Look at "
            "what gate_up_proj holds: gates first, or gate and other half of a channel side by side "
            "(is_concatenated), and name in attributes the numbers that tell the width."
        )
