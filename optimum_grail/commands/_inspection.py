"""What ``grail inspect`` finds out. Heavy imports: only the command's ``run`` imports this file."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from optimum_grail.checkpoints.loading import load_config, model_class
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.models.layout import Layout
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import compressed_with, expressible

ALIGNED = 32
"""Sides of a matrix that every quantizer of the guide takes on every processor are multiples of it."""


def load_skeleton(name: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """Build the model that a folder's or repository's config describes, without storage for its weights.

    Raises:
        CheckpointError: no such folder or repository in reach, or no config that transformers can read.
        ArchitectureError: its class is unknown.
    """
    config = load_config(name, trust_remote_code)
    kind: Any = model_class(config, trust_remote_code)
    with torch.device("meta"):
        if issubclass(kind, PreTrainedModel):
            return cast(PreTrainedModel, kind(config))
        return cast(PreTrainedModel, kind.from_config(config, trust_remote_code=trust_remote_code))


def inspect_model(model: nn.Module) -> dict[str, Any]:
    """JSON values: parameters, one row per family of groups that look alike, every group, and how far it can go.

    Raises:
        UnknownNameError: no map serves the model's type.
        ArchitectureError: the map does not fit the model.
    """
    layout = resolve(model)
    rows: dict[tuple[str, str, int, int], dict[str, Any]] = {}
    narrowest: dict[str, int] = {}
    for stack in layout.stacks:
        for group in layout.of_stack(stack):
            key = (stack.name, group.kind, group.units, group.cost)
            row = rows.setdefault(key, _family(stack.name, group, model, layout))
            row["groups"] += 1
            row["parameters"] += group.cost * group.units
            narrowest[group.name] = min((*row["expressible"], group.units))  # none: the table gave it this width
    return {
        "class": type(model).__name__,
        "compressed": compressed_with(model.config) is not None,
        "parameters": layout.total_parameters,
        "block_parameters": layout.block_parameters,
        "largest_sparsity": _reach(layout, dict.fromkeys(layout.widths, 1)),
        "largest_standalone_sparsity": _reach(layout, narrowest),
        "families": list(rows.values()),
        "groups": [_group(group) for group in layout.groups],
    }


def _step(group: ChannelGroup) -> int:
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
        "expressible": [n for n in range(1, group.units + 1) if expressible(model, layout, group, n)],
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
