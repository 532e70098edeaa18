"""Whether a plan fits a model: everything is checked before the first weight changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import Port
from optimum_grail.core.plan import GroupPlan
from optimum_grail.core.readout import Readout
from optimum_grail.errors import ArchitectureError, StatisticsError
from optimum_grail.models.attributes import read
from optimum_grail.models.changing import check_changes
from optimum_grail.models.matrix import columns, copies_of, main_weight, owns_bias, rows, taps


def validate(model: nn.Module, item: GroupPlan, sizes: dict[tuple[str, str], int]) -> None:
    """Check one group against the sizes of the modules after the groups before it, and update these sizes."""
    group, reduction = item.group, item.reduction
    if not reduces(model, item):
        raise ArchitectureError(
            f"The plan of {group.name!r} reduces {len(reduction.assignment)} units to {reduction.slots}; the group has "
            f"{group.units}. Make the plan for this model."
        )
    if group.kind != "expert-channels":
        _check_ports(model, item, sizes)
    for table in group.tables:
        found = read(model, table.path)
        if not isinstance(found, Tensor) or found.shape[table.axis] != group.units * table.span:
            raise ArchitectureError(f"{table.path} does not have {group.units * table.span} heads along {table.axis}.")
    for path, per_unit in group.attributes:
        if read(model, path) != group.units * per_unit:
            raise ArchitectureError(f"{path} is not {group.units * per_unit}, as {group.name!r} expects.")
    _check_readout(model, item, sizes)
    check_changes(model, item)


def reduces(model: nn.Module, item: GroupPlan) -> bool:
    """Whether the reduction is one of all units of its group, of every expert's as many where each has its own."""
    group, copies, assignment = item.group, copies_of(model, item.group), item.reduction.assignment
    fits = len(assignment) == group.units * copies and group.fewest <= item.slots <= group.units
    if not fits or copies == 1:
        return fits
    own = assignment.unflatten(0, (copies, -1)) - item.slots * torch.arange(copies)[:, None]
    gone = assignment.unflatten(0, (copies, -1)) < 0
    return bool((gone | ((own >= 0) & (own < item.slots))).all()) and bool((own.amax(1) == item.slots - 1).all())


def _check_ports(model: nn.Module, item: GroupPlan, sizes: dict[tuple[str, str], int]) -> None:
    group, reduction = item.group, item.reduction
    for port in (*from_the_end(group.producers), group.consumer):
        module = _module(model, port.module)
        width = rows(module, port.module) if port.side == "out" else columns(module, port.module)
        left = sizes.setdefault((port.module, port.side), width)
        if left < port.offset + group.units * port.span:
            raise ArchitectureError(
                f"{port.module} has width {left}, but {group.name!r} needs {port.offset + group.units * port.span}. "
                "The plan belongs to another model, or was applied already."
            )
        _check_values(module, port.module)
        sizes[port.module, port.side] = left - (group.units - reduction.slots) * port.span


def _check_readout(model: nn.Module, item: GroupPlan, sizes: dict[tuple[str, str], int]) -> None:
    group, readout, path = item.group, readout_of(item), item.group.consumer.module
    consumer = model.get_submodule(path)
    out = sizes.get((path, "out"), rows(consumer, path))
    per_slot = 1 if group.kind == "expert-channels" else group.consumer.span * taps(consumer)
    expected = (out, item.reduction.slots * per_slot)
    if tuple(readout.weight.shape) != expected:
        raise ArchitectureError(
            f"The readout of {group.name!r} has shape {tuple(readout.weight.shape)}, expected {expected}."
        )
    dtype = main_weight(consumer).dtype
    if not bool(torch.isfinite(readout.weight.to(dtype)).all()):
        raise StatisticsError(
            f"The readout of {group.name!r} is not finite in {dtype}. Raise the ridge, or compress in a wider dtype."
        )
    bias = readout.bias
    if bias is None:
        return
    if not owns_bias(model, group):
        raise ArchitectureError(
            f"The readout of {group.name!r} has a bias, but {path} has none and no BatchNorm follows. Use "
            "affine=False, or add biases first where the stock config can express them."
        )
    if tuple(bias.shape) != (out,) or not bool(torch.isfinite(bias.to(dtype)).all()):
        raise StatisticsError(f"The readout bias of {group.name!r} must be {out} finite numbers in {dtype}.")


def readout_of(item: GroupPlan) -> Readout:
    """The readout of a plan that has not been applied yet."""
    if item.readout is None:
        raise ArchitectureError(
            f"The plan of {item.group.name!r} has no readout: it was applied already. Apply a plan to the dense model "
            "before its readouts are let go."
        )
    return item.readout


def from_the_end(ports: Sequence[Port]) -> list[Port]:
    """Ports of one fused module last strip first, so that the offsets of the others stay true."""
    return sorted(ports, key=lambda port: -port.offset)


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise ArchitectureError(f"The plan names {path}, which the model lacks. Apply it to its own model.") from error


def _check_values(module: nn.Module, path: str) -> None:
    check_kind(module, path)
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.device.type == "meta":
            raise ArchitectureError(
                f"{path}.{name} is on the meta device or offloaded, so it has no values to change. Hold the module in "
                "memory while its weights change (optimum_grail.models.residence.resident)."
            )


def check_kind(module: nn.Module, path: str) -> None:
    """Refuse a module whose parameters are quantized."""
    for name, parameter in module.named_parameters(recurse=False):
        if not parameter.is_floating_point() or type(parameter) is not nn.Parameter:
            raise ArchitectureError(
                f"{path}.{name} is quantized ({type(parameter).__name__}, {parameter.dtype}). Compress the unquantized "
                "model, then quantize the result."
            )
