"""Narrow the modules of a model to the per-layer table in its config, before the weights come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.errors import BlocksMissingError
from optimum_grail.models.layout import Layout, Stack
from optimum_grail.models.resolve import matches, resolve
from optimum_grail.models.stock import config_of
from optimum_grail.models.surgery import narrow_
from optimum_grail.models.table import check_table, read_table


def resize_(model: nn.Module, spec: ArchitectureSpec | None = None) -> None:
    """Narrow the modules of a freshly built transformers model to the tables in its configs.

    Everything is checked before the first module changes; modules that have the width already are left alone, so it may
    run any number of times. Works on the meta device.

    Args:
        model: a (sub-)model whose config, or whose sub-models' configs, may hold ``grail_config``.
        spec: the map to use; by default the registered ones.

    Raises:
        CheckpointError: a table is malformed or does not fit the modules.
        UnknownNameError, ArchitectureError: no map fits the model; register it before loading.
    """
    if not _has_table(model):
        return
    try:
        layout = resolve(model, spec)
    except BlocksMissingError:
        if type(model).__name__ in (getattr(config_of(model, ""), "architectures", None) or ()):
            raise
        return  # a part that is built with the whole's config (T5's encoder): narrowed when the whole is built
    units: dict[str, int] = {}
    for stack in layout.owners:
        where = f"grail_config of {stack.name}"
        config = config_of(model, stack.owner)
        table = _of_this_part(stack, read_table(getattr(config, "grail_config", None), where))
        units |= check_table(layout, stack, table, where)
    narrow_all_(model, layout, units)


def narrow_all_(model: nn.Module, layout: Layout, units: Mapping[str, int]) -> None:
    """Narrow every group to its entry in ``units``; groups that are not named stay."""
    for group in layout.groups:
        if units.get(group.name, group.units) != group.units:
            narrow_(model, group, units[group.name])


def _of_this_part(stack: Stack, table: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The rows of ``table`` without those of blocks of which this model has none: an encoder that is loaded alone from
    the checkpoint of an encoder and decoder."""
    absent = [pattern for pattern in stack.spec.blocks if not any(matches(layer, pattern) for layer in stack.layers)]
    if len(absent) == len(stack.spec.blocks):  # one pattern: layers are numbers
        return table
    return {
        layer: row
        for layer, row in table.items()
        if not any(isinstance(layer, str) and matches(layer, pattern) for pattern in absent)
    }


def _has_table(model: nn.Module) -> bool:
    """Whether any config in reach holds a table, or something malformed in its place."""
    configs = {id(config): config for path, _ in model.named_modules() if (config := config_of(model, path))}
    holders = (getattr(config, "grail_config", None) for config in configs.values())
    return any(len(read_table(holder, "config.grail_config")) > 0 for holder in holders)
