"""Whether what a state says was measured can be what it should be: a state may come from anyone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.errors import CheckpointError, shorten
from optimum_grail.models.layout import Layout

CURVE = ("errors", "order", "sensitivity")


def check_measured(tensors: Mapping[str, Tensor], layout: Layout) -> None:
    """Refuse measurements of a survey that no survey of this model can have made.

    Args:
        tensors: as :meth:`optimum_grail.survey.findings.Findings.to_tensors` gives them.
        layout: of the dense model.

    Raises:
        CheckpointError: numbers that are none, or error curves that do not fit the groups.
    """
    for name, tensor in tensors.items():
        if bool(torch.isnan(tensor).any()):
            raise _unsound(f"{shorten(name)} is not a number")
    curves = {key.removeprefix("curves/"): value for key, value in tensors.items() if key.startswith("curves/")}
    groups = {group.name: group for group in layout.groups if group.units}
    expected = {f"{name}/{part}" for name in groups for part in CURVE} if curves else set()
    if curves.keys() != expected:
        raise _unsound("its error curves are of other groups")
    for name, group in groups.items() if curves else ():
        if not _is_curve(group, *(curves[f"{name}/{part}"] for part in CURVE)):
            raise _unsound(f"the error curve of {shorten(name)} does not fit its {group.units} units")


def check_gradients(tensors: Mapping[str, Tensor], layout: Layout) -> None:
    """Refuse gradients that cannot be those of :func:`optimum_grail.streams.gradients.mask_gradients`.

    Raises:
        CheckpointError: other groups, or another number of units.
    """
    for group in layout.groups:
        found = tensors.get(group.name)
        if found is None or found.dim() != 2 or found.shape[1] != group.units or not found.is_floating_point():
            raise _unsound(f"the gradients of {shorten(group.name)} do not fit its {group.units} units")


def _is_curve(group: ChannelGroup, errors: Tensor, order: Tensor, sensitivity: Tensor) -> bool:
    whole = errors.is_floating_point() and tuple(errors.shape) == (group.units + 1,)
    inside = order.dtype == torch.int64 and order.dim() == 1 and bool(((order >= 0) & (order < group.units)).all())
    return whole and inside and len(torch.unique(order)) == len(order) and sensitivity.dim() == 0


def _unsound(reason: str) -> CheckpointError:
    return CheckpointError(
        f"What an interrupted run measured cannot be used: {reason}. Delete its state's folder and begin anew."
    )
