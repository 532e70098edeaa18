"""A block made again what an earlier run made of it, from its plan and from what that run fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from optimum_grail.core.plan import GroupPlan
from optimum_grail.errors import ArchitectureError, CheckpointError
from optimum_grail.models.surgery import columns_of, rewrite_, shrink_inside_
from optimum_grail.models.validity import reduces

Tensors = Mapping[str, Tensor]
"""By path in the model."""


def fitted_tensors(model: nn.Module, plans: Iterable[GroupPlan]) -> dict[str, Tensor]:
    """What ``plans`` set in the modules of their groups, by path in the model: what the consumers hold, the BatchNorm
    right after one, and producers that were refitted. Whatever else they change follows from their reductions, so that
    it need not be kept."""
    paths: list[str | None] = []
    for plan in plans:
        producers = plan.group.producers if plan.refitted else ()
        paths += [plan.group.consumer.module, plan.group.norm, *(port.module for port in producers)]
    found: dict[str, Tensor] = {}
    for path in dict.fromkeys(path for path in paths if path is not None):
        module = model.get_submodule(path)
        tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        found |= {f"{path}.{name}": tensor for name, tensor in tensors}
    return found


def restore_(model: nn.Module, plans: Sequence[GroupPlan], values: Callable[[Tensors], Tensors]) -> None:
    """Make of a dense block what an earlier run made of it, to the last bit.

    Args:
        model: with the block as it was before that run.
        plans: of all groups of the block that were compressed or refitted, in the order in which that was done; their
            readouts are not looked at.
        values: called with :func:`fitted_tensors` at their new shapes; returns what that run set them to.

    Raises:
        ArchitectureError: a plan does not fit its group.
        CheckpointError: the values do not fit.
    """
    for plan in plans:
        group, reduction = plan.group, plan.reduction
        if plan.inside is not None:
            shrink_inside_(model, group.resized(plan.inside.whole), plan.inside)
        if not reduces(model, plan):
            raise ArchitectureError(
                f"The plan of {group.name!r} reduces {len(reduction.assignment)} units to {reduction.slots}; the group "
                f"has {group.units}. Restore a block from the state of its own model."
            )
        rewrite_(model, group, plan.slots, reduction.encode_rows, columns_of(model, group, plan.slots))
    places = fitted_tensors(model, plans)
    found = values(places)
    for name, place in places.items():
        if name not in found or not _fits(found[name], place):
            raise CheckpointError(
                f"What was kept of {name} is missing, not finite, or no {place.dtype} of shape {tuple(place.shape)}."
            )
    for name, place in places.items():
        place.data = found[name].to(place.device, copy=True)  # memory of its own, as torch aligns it


def _fits(value: Tensor, place: Tensor) -> bool:
    return value.shape == place.shape and value.dtype == place.dtype and bool(torch.isfinite(value).all())
