"""What ``grail inspect`` finds out. Heavy imports: only the command's ``run`` imports this file."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from optimum_grail.core.groups import IN_MIXTURES, ChannelGroup
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.layout import Layout, Stack
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import compressed_with, expressible
from optimum_grail.widths.head_size import why_rigid

ALIGNED = 32
"""Sides of a matrix that every quantizer of the guide takes on every processor are multiples of it."""


def inspect_model(model: nn.Module) -> dict[str, Any]:
    """JSON values: parameters, one row per family of groups that look alike, every group, and how far it can go.

    Raises:
        UnknownNameError: no map serves the model's type.
        ArchitectureError: the map does not fit the model, or its blocks are empty.
    """
    layout = resolve(model, experts=True)
    if not layout.block_parameters:
        raise ArchitectureError(f"The blocks of this {type(model).__name__} have no parameters. Check its config.json.")
    rows: dict[tuple[str, str, int, int], dict[str, Any]] = {}
    narrowest: dict[str, int] = {}
    for stack in layout.stacks:
        for group in layout.of_stack(stack):
            key = (stack.name, group.kind, group.units, group.cost)
            row = rows.setdefault(key, _family(stack.name, group, model, layout))
            row["groups"] += 1
            row["parameters"] += group.cost * group.units
            if group.kind not in IN_MIXTURES:  # a sparsity leaves them as they are
                narrowest[group.name] = min((*row["expressible"], group.units))  # none: the table gave it this width
    return {
        "class": type(model).__name__,
        "compressed": compressed_with(model.config) is not None,
        "parameters": layout.total_parameters,
        "block_parameters": layout.block_parameters,
        "largest_sparsity": _reach(layout, dict.fromkeys(narrowest, 1)),
        "largest_standalone_sparsity": _reach(layout, narrowest),
        "families": list(rows.values()),
        "head_sizes": {group.owner: group.inside.size for group in layout.groups if group.inside is not None},
        "rigid_heads": sorted({why_rigid(layout, g.name) for g in layout.groups if g.kind == "heads" and not g.inside}),
        "impossible": [item for stack in layout.stacks for item in _impossible(stack, layout)],
        "groups": [_group(group) for group in layout.groups],
    }


def _impossible(stack: Stack, layout: Layout) -> list[dict[str, str]]:
    """Kinds of groups that the map of ``stack`` calls impossible and that the model does not have there, with why."""
    kinds = {group.kind for group in layout.of_stack(stack)}
    found = {kind: why for kind, why in stack.spec.impossible.items() if kind not in kinds}
    return [{"stack": stack.name, "kind": kind, "why": why} for kind, why in found.items()]


def _step(group: ChannelGroup) -> int:
    if group.kind == "experts":  # they are matrices of their own
        return 1
    if group.kind == "expert-channels":
        return ALIGNED
    return math.lcm(*(ALIGNED // math.gcd(ALIGNED, port.span) for port in (*group.producers, group.consumer)))


def _reach(layout: Layout, widths: dict[str, int]) -> float:
    return layout.removed_parameters(widths) / layout.block_parameters


def _family(stack: str, group: ChannelGroup, model: nn.Module, layout: Layout) -> dict[str, Any]:
    """A row without its counts; ``expressible``: the widths that the stock config can say, ascending;
    ``quantizer_step``: with multiples of so many units, every side of its matrices is one of :data:`ALIGNED`."""
    return {
        "stack": stack,
        "kind": group.kind,
        "groups": 0,
        "units": group.units,
        "parameters_per_unit": group.cost,
        "parameters": 0,
        "quantizer_step": _step(group),
        "expressible": [
            n for n in range(max(group.fewest, 1), group.units + 1) if expressible(model, layout, group, n)
        ],
    }


def _group(group: ChannelGroup) -> dict[str, Any]:
    return {
        "name": group.name,
        "kind": group.kind,
        "units": group.units,
        "parameters_per_unit": group.cost,
        "producers": [port.module for port in group.producers],
        "consumer": group.consumer.module,
    }
