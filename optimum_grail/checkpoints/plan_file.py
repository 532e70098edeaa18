"""The plan of a compressed model as files: what stayed of every group, and in which order units would have gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from optimum_grail.checkpoints.files import EARLIER_PLAN_TENSORS, PLAN_TENSORS
from optimum_grail.core.plan import Plan
from optimum_grail.core.reduction import Reduction
from optimum_grail.errors import CheckpointError, shorten

PLAN_FILE = "grail_plan.json"


def save_plan(plan: Plan, folder: str | Path) -> None:
    """Write ``grail_plan.json`` (units kept, diagnostics) and ``grail_plan.tensors`` (units, order, curve)."""
    tensors: dict[str, torch.Tensor] = {}
    groups: dict[str, Any] = {}
    for name, item in plan.items():
        if item.group.kind != "classifier":  # of that nothing goes
            tensors[f"{name}.assignment"] = item.reduction.assignment.cpu().contiguous()
        if not item.reduction.is_selection:
            tensors[f"{name}.weight"] = item.reduction.weight.cpu().contiguous()
        for key, value in (("order", item.order), ("curve", item.curve)):
            if value is not None:
                tensors[f"{name}.{key}"] = value.cpu().contiguous()
        groups[name] = {
            "kind": item.group.kind,
            "units": item.group.units,
            "kept": item.slots,
            "diagnostics": dict(item.diagnostics),
        }
        if item.inside is not None:
            groups[name]["head_size"] = [item.inside.whole, item.inside.size]
            groups[name]["pairs"] = item.inside.pairs.tolist()
    save_file(tensors, str(Path(folder) / PLAN_TENSORS))
    write_json(Path(folder) / PLAN_FILE, {"groups": groups})


def load_reductions(folder: str | Path) -> dict[str, Reduction]:
    """How every group shrank, by group name, from a folder that :func:`save_plan` of this or an earlier version wrote.

    Raises:
        CheckpointError: there is no plan, or it is corrupt.
    """
    path, earlier = Path(folder) / PLAN_TENSORS, Path(folder) / EARLIER_PLAN_TENSORS
    path = earlier if earlier.is_file() and not path.is_file() else path
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"Cannot read the plan {str(path)!r}: {error}. Name the folder of a compressed checkpoint."
        ) from error
    reductions = {}
    for name in (key.removesuffix(".assignment") for key in tensors if key.endswith(".assignment")):
        assignment = tensors[f"{name}.assignment"]
        weight = tensors.get(f"{name}.weight", torch.ones(assignment.shape, dtype=torch.float64))
        if not is_reduction(assignment, weight):
            raise CheckpointError(
                f"The plan {str(path)!r} says of {shorten(name)} what no reduction can be: {assignment.dtype} "
                f"{tuple(assignment.shape)}. Download or compress the checkpoint again."
            )
        reductions[name] = Reduction(assignment, weight, int(assignment.max()) + 1)
    return reductions


def is_reduction(assignment: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether every unit goes to a slot below the number of units, or to none (-1), with a finite weight."""
    if assignment.dtype != torch.int64 or assignment.dim() != 1 or not len(assignment):
        return False
    inside = bool(((assignment >= -1) & (assignment < len(assignment))).all())
    return inside and weight.shape == assignment.shape and bool(torch.isfinite(weight.double()).all())


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
