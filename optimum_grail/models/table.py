"""The per-layer table: widths that a stock config cannot say, ``{"3": {"intermediate_size": 17}}``.

It lives under ``"layers"`` of ``config.grail_config`` (of the sub-config that owns the layers) or, for modules without
a config, of ``grail_layers.json``. It comes from files anyone may have written, so it is checked strictly before use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.errors import CheckpointError, shorten
from optimum_grail.models.layout import Layout, Stack

Table = dict[str, dict[str, int]]


def entries(group: ChannelGroup, units: int) -> dict[str, int]:
    """What the table says of ``group`` at ``units`` units."""
    return {field: units * per_unit for field, per_unit in group.fields}


def read_table(holder: object, where: str) -> Mapping[Any, Any]:
    """The raw table of ``holder``, the value of ``config.grail_config``; empty if it has none.

    Args:
        holder: what was found there; ``None`` counts as empty.
        where: for messages, where it was found.

    Raises:
        CheckpointError: ``holder`` or its ``"layers"`` is no dictionary.
    """
    if holder is None:
        return {}
    if not isinstance(holder, Mapping):
        raise CheckpointError(f"{where} is {shorten(holder)}; expected a dictionary. {_REMEDY}")
    table = holder.get("layers")
    if table is None:
        return {}
    if not isinstance(table, Mapping):
        raise CheckpointError(f"{where}['layers'] is {shorten(table)}; expected a dictionary of layers. {_REMEDY}")
    return table


def check_table(layout: Layout, stack: Stack, table: Mapping[Any, Any], where: str) -> dict[str, int]:
    """Check a table against the modules of ``stack`` and translate it; touches nothing.

    Args:
        layout: the layout of the model as its stock config builds it (or already narrowed to the table).
        stack: the stack that the table is about.
        table: layer to config field to width, as :func:`read_table` returns it.
        where: for messages, where the table was found.

    Returns:
        units to keep, by group name, for every group that the table names.

    Raises:
        CheckpointError: names the entry that is of a wrong type, unknown, negative, above the width of the module,
            or at odds with another entry.
    """
    units: dict[str, int] = {}
    blocks = dict(zip(stack.layers, stack.blocks, strict=True))
    for layer, row in table.items():
        place = f"{where}['layers'][{shorten(layer)}]"
        if not isinstance(layer, str) or layer not in blocks:
            raise CheckpointError(f"{place}: no such layer; expected one of {_some(stack.layers)}. {_REMEDY}")
        if not isinstance(row, Mapping):
            raise CheckpointError(f"{place} is {shorten(row)}; expected a dictionary of widths. {_REMEDY}")
        groups = layout.of_block(blocks[layer])
        known = [field for group in groups for field, _ in group.fields]
        for field, value in row.items():
            if field not in known:
                raise CheckpointError(f"{place}[{shorten(field)}]: no such width; expected {_some(known)}. {_REMEDY}")
            if type(value) is not int or value < 0:
                raise CheckpointError(
                    f"{place}[{shorten(field)}] is {shorten(value)}; expected a width: an integer >= 0. {_REMEDY}"
                )
        for group in groups:
            if any(field in row for field, _ in group.fields):
                units[group.name] = _units(group, row, place)
    return units


_REMEDY = "The checkpoint's table is damaged, or belongs to other weights: download or compress it again."


def _units(group: ChannelGroup, row: Mapping[str, int], place: str) -> int:
    field, per_unit = group.fields[0]
    units = row.get(field, -1) // per_unit
    if units < group.fewest or any(row.get(name) != width for name, width in entries(group, units).items()):
        ratio = ", ".join(f"{name} = {count} x units" for name, count in group.fields)
        raise CheckpointError(f"{place}: {shorten(dict(row))} does not fit {group.name}; expected {ratio}. {_REMEDY}")
    if units > group.units:
        width, most = shorten(row[field], 30), group.units * per_unit
        raise CheckpointError(f"{place}[{field!r}] is {width}, above the {most} of {group.name}. {_REMEDY}")
    return units


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For ``json.loads(object_pairs_hook=...)``: a dictionary, unless a key stands twice and readers may differ.

    Raises:
        ValueError: names the key.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shorten(double)} stands twice")
    return found


def _some(names: Sequence[object]) -> str:
    return ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")
