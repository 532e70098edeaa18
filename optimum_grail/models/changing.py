"""What a plan's changes make of the weights of producers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from optimum_grail.core.plan import GroupPlan
from optimum_grail.errors import ArchitectureError, StatisticsError
from optimum_grail.models.matrix import axes, columns
from optimum_grail.models.products import makers_of


def check_changes(model: nn.Module, item: GroupPlan) -> None:
    """Refuse changes that do not fit the producers.

    Raises:
        ArchitectureError: there is not one for every producer, or one has another shape.
        StatisticsError: one is not finite.
    """
    makers = makers_of(model, item.group)
    if item.changes is not None and len(item.changes) != len(makers):
        raise ArchitectureError(
            f"The plan of {item.group.name!r} changes {len(item.changes)} producers, but it has {len(makers)}. Make "
            "the plan for this model."
        )
    for port, change in zip(makers, item.changes or (), strict=False):
        module = model.get_submodule(port.module)
        bias = int(module._parameters.get("bias") is not None and not isinstance(module, nn.Conv2d))
        kernel = module.kernel_size if isinstance(module, nn.Conv2d) else ()
        expected = (item.reduction.slots * port.span, columns(module, port.module) + bias, *kernel)
        if tuple(change.shape) != expected:
            raise ArchitectureError(
                f"The change of {port.module} has shape {tuple(change.shape)}, expected {expected}. Make the plan for "
                "this model."
            )
        if not bool(torch.isfinite(change).all()):
            raise StatisticsError(f"The change of {port.module} is not finite. Raise the damping of the refit.")


def changed_values(model: nn.Module, item: GroupPlan) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Module, name and new value of every parameter that the changes of ``item`` touch, in float64; the reduction has
    been carried out, and a value is computed when its turn comes."""
    group = item.group.narrowed(item.reduction.slots)
    for port, change in zip(makers_of(model, group), item.changes or (), strict=False):
        module = model.get_submodule(port.module)
        axis, along = axes(module, port.module)
        width = module.get_parameter("weight").shape[along]
        moved = {"weight": (axis, change[:, :width] if axis == 0 else change[:, :width].T)}
        if change.shape[1] > width:
            moved["bias"] = 0, change[:, width]
        for name, (where, added) in moved.items():
            value = module.get_parameter(name).detach().double()
            value.narrow(where, port.offset, group.units * port.span).add_(added.to(value))
            yield module, name, value
