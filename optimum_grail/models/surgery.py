"""The only place where a weight changes: :func:`apply_` for a plan, :func:`narrow_` for empty shapes while loading;
:mod:`optimum_grail.models.restoring` for what an earlier run left of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup, Port
from optimum_grail.core.head_size import HeadReduction
from optimum_grail.core.plan import GroupPlan
from optimum_grail.errors import ArchitectureError, StatisticsError
from optimum_grail.models.attributes import read, write_
from optimum_grail.models.banks import DOWN, channelled, channels_back, channels_first, companions, is_bank
from optimum_grail.models.changing import changed_values
from optimum_grail.models.head_size import check_inside, resize_attention_, shrunk_values
from optimum_grail.models.headless import take_features_, take_heads_
from optimum_grail.models.matrix import (
    axes,
    channel_axis,
    copies_of,
    from_matrix,
    is_channelwise,
    main_weight,
)
from optimum_grail.models.picking import pick_heads_
from optimum_grail.models.residence import refuse_empty, values_of
from optimum_grail.models.sync import sync_sizes_
from optimum_grail.models.validity import check_kind, from_the_end, readout_of, validate

Encode = Callable[[Tensor, int], Tensor]
"""``(rows of all units, span) -> rows of the kept slots``."""


def apply_(model: nn.Module, plan: Mapping[str, GroupPlan]) -> None:
    """Give the modules of ``model`` the shapes and values of ``plan``.

    Everything is validated before the first write. Parameters become new objects of the same dtype, device and
    ``requires_grad``; a group that keeps everything with an unchanged readout stays bit-identical.

    Args:
        model: the model that the plan's groups were resolved on, with values in memory.
        plan: group name to its reduction and readout, for instance a :class:`~optimum_grail.core.plan.Plan`.

    Raises:
        ArchitectureError: a module is absent, of the wrong kind or width, quantized or offloaded; a readout has the
            wrong shape, or a bias that its consumer cannot take.
        StatisticsError: a readout is not finite in the dtype of its consumer.
    """
    ordered = _in_order(plan.values())
    sizes: dict[tuple[str, str], int] = {}
    for item in ordered:
        if item.inside is not None:
            check_inside(model, item)
        else:
            validate(model, item, sizes)
    for item in ordered:
        if item.inside is not None:
            shrink_inside_(model, item.group, item.inside)
        else:
            _apply_one_(model, item)


def narrow_(model: nn.Module, group: ChannelGroup, units: int) -> None:
    """Give the modules of ``group`` the shapes of ``units`` units; the values are those of the first ones.

    For loaders, before a checkpoint fills the modules; works on the meta device.

    Raises:
        ArchitectureError: ``units`` is outside ``[group.fewest, group.units]``.
    """
    if not group.fewest <= units <= group.units:
        raise ArchitectureError(f"Group {group.name!r} has {group.units} units; cannot keep {units}.")
    copies = copies_of(model, group)

    def first(strip: Tensor, span: int) -> Tensor:
        """What the first units own, of every expert where each has its own."""
        return strip.unflatten(0, (copies, -1))[:, : units * span].flatten(0, 1).clone()

    rewrite_(model, group, units, first, columns_of(model, group, units))


def columns_of(model: nn.Module, group: ChannelGroup, units: int) -> Tensor:
    """A copy of what the consumer's weight has for the first ``units`` units of ``group``, laid out as there."""
    port, consumer = group.consumer, model.get_submodule(group.consumer.module)
    weight = main_weight(consumer).detach()
    if group.kind == "expert-channels":
        return channels_back(consumer, DOWN, channels_first(consumer, DOWN, weight)[:, :units]).clone()
    _, axis = axes(consumer, port.module)
    return weight.narrow(axis, port.offset, units * port.span).clone()


def check_weights(model: nn.Module, groups: Iterable[ChannelGroup]) -> None:
    """Refuse weights that cannot be compressed, before any work is spent on them.

    Raises:
        ArchitectureError: a weight of the groups is quantized, or on the meta device without a hook that loads it.
        StatisticsError: a parameter or buffer of the model, of a group or not, holds NaN or infinity.
    """
    paths = {port.module for group in groups for port in (*group.producers, group.consumer)}
    refuse_empty(model, paths)
    for path in sorted(paths):
        check_kind(model.get_submodule(path), path)
    for name, tensor in values_of(model):
        if not bool(torch.isfinite(tensor).all()) and not _is_mask(tensor):
            raise StatisticsError(f"{name} holds NaN or infinite values. Repair the checkpoint before compressing.")


def _is_mask(tensor: Tensor) -> bool:
    """Whether the only values that are not finite are minus infinities in a buffer: an attention mask has them."""
    finite = torch.isfinite(tensor) | torch.isneginf(tensor)
    return not isinstance(tensor, nn.Parameter) and bool(finite.all())


def _in_order(items: Iterable[GroupPlan]) -> list[GroupPlan]:
    """Blocks as they come, stages ascending within a block: a consumer loses its columns before its rows."""
    blocks: dict[str, list[GroupPlan]] = {}
    for item in items:
        blocks.setdefault(item.group.block, []).append(item)
    return [item for block in blocks.values() for item in sorted(block, key=lambda item: item.group.stage)]


def _apply_one_(model: nn.Module, item: GroupPlan) -> None:
    group, reduction, readout = item.group, item.reduction, readout_of(item)
    consumer = model.get_submodule(group.consumer.module)
    weight = main_weight(consumer)
    left = readout.weight.to(weight.device, weight.dtype)
    if group.kind == "expert-channels":
        columns_left = channels_back(consumer, DOWN, left.T.unflatten(0, (len(weight), -1)))
    else:
        columns_left = from_matrix(left, consumer)
    rewrite_(model, group, item.slots, reduction.encode_rows, columns_left)
    for module, name, value in changed_values(model, item):
        _set_(module, name, value)
    if readout.bias is None:
        return
    if consumer._parameters.get("bias") is not None:
        bias = consumer.get_parameter("bias")
        _set_(consumer, "bias", bias.detach().double() + readout.bias.to(bias.device))
        return
    norm = model.get_submodule(str(group.norm))
    mean = norm.get_buffer("running_mean")  # adding b in front of a BatchNorm is taking b from its mean
    _set_(norm, "running_mean", mean.double() - readout.bias.to(mean.device))


def shrink_inside_(model: nn.Module, group: ChannelGroup, found: HeadReduction) -> None:
    """Give the heads of ``group`` the dimensions that ``found`` leaves. Nothing is checked: callers have."""
    for path, name, value in list(shrunk_values(model, group, found)):
        _set_(model.get_submodule(path), name, value)
        sync_sizes_(model.get_submodule(path))
    resize_attention_(model, group, found)


def rewrite_(model: nn.Module, group: ChannelGroup, slots: int, encode: Encode, consumer_strip: Tensor) -> None:
    """Give the modules of ``group`` the shapes of ``slots`` units: producers by ``encode``, the consumer's columns as
    given. Nothing is checked: callers have."""
    if group.kind == "expert-channels":
        _rewrite_experts_(model, group, slots, encode, consumer_strip)
        return
    for port in from_the_end(group.producers):
        module = model.get_submodule(port.module)
        axis = None if is_channelwise(module) else axes(module, port.module)[0]
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tensor.dim() == 0:  # BatchNorm's num_batches_tracked
                continue
            along = channel_axis(module, tensor) if axis is None else axis if tensor.dim() > 1 else 0
            strip = tensor.detach().narrow(along, port.offset, group.units * port.span).movedim(along, 0)
            _set_(module, name, _splice(tensor, port, group.units, along, encode(strip, port.span).movedim(0, along)))
        sync_sizes_(module)
    consumer = model.get_submodule(group.consumer.module)
    weight = main_weight(consumer)
    _, axis = axes(consumer, group.consumer.module)
    if is_bank(consumer):
        for name, tensor in list(companions(consumer)):
            _set_(consumer, name, encode(tensor.detach(), 1))
    name = DOWN if is_bank(consumer) else "weight"
    _set_(consumer, name, _splice(weight, group.consumer, group.units, axis, consumer_strip))
    sync_sizes_(consumer)
    for table in group.tables:
        owner, _, name = table.path.rpartition(".")
        values = read(model, table.path).detach().movedim(table.axis, 0)
        _set_(model.get_submodule(owner), name, encode(values, table.span).movedim(0, table.axis))
    for path, per_unit in group.attributes:
        write_(model, path, slots * per_unit)
    if group.arguments and slots < group.units:
        pick_heads_(model, group, encode)
    if slots == 0:
        take_features_(consumer)
        if group.attention is not None:
            take_heads_(model, group)


def _rewrite_experts_(model: nn.Module, group: ChannelGroup, slots: int, encode: Encode, down: Tensor) -> None:
    """The same for channels inside experts: whatever makes them by ``encode``, expert after expert; ``down_proj`` as
    given."""
    bank = model.get_submodule(group.consumer.module)
    for name in channelled(bank):
        rows = channels_first(bank, name, bank.get_parameter(name).detach())
        left = encode(rows.flatten(0, 1), 1).unflatten(0, (len(rows), slots))
        _set_(bank, name, down if name == DOWN else channels_back(bank, name, left))
    for path, per_unit in group.attributes:
        write_(model, path, slots * per_unit)


def _splice(tensor: Tensor, port: Port, units: int, axis: int, strip: Tensor) -> Tensor:
    """Replace the strip that ``port`` owns along ``axis``; what lies outside stays."""
    end = port.offset + units * port.span
    rest = tensor.shape[axis] - end
    if port.offset == 0 and rest == 0:
        return strip
    whole = tensor.detach()
    return torch.cat([whole.narrow(axis, 0, port.offset), strip, whole.narrow(axis, end, rest)], axis)


def _set_(module: nn.Module, name: str, value: Tensor) -> None:
    """Replace a parameter or buffer, keeping dtype, device, ``requires_grad`` and what others noted on it."""
    old = getattr(module, name)
    value = value.detach().to(old.device, old.dtype).contiguous()
    if not isinstance(old, nn.Parameter):
        setattr(module, name, value)
        return
    new = nn.Parameter(value, requires_grad=old.requires_grad)
    vars(new).update(vars(old))
    setattr(module, name, new)
