"""Everything a compressed model is saved with; the folder is complete or absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from optimum_grail.core.plan import Plan
from optimum_grail.core.reduction import Reduction
from optimum_grail.errors import CheckpointError
from optimum_grail.hub.card import write_card
from optimum_grail.models.layout import Layout
from optimum_grail.models.loading import save_compressed
from optimum_grail.models.remote_code import write_remote_code_
from optimum_grail.output import staged_folder
from optimum_grail.report.plots import FILE_NAME as PLOT
from optimum_grail.report.plots import can_plot, plot_errors
from optimum_grail.report.report import Report

PLAN_FILE = "grail_plan.json"
PLAN_TENSORS = "grail_plan.safetensors"


class Savable(Protocol):
    """A tokenizer or processor."""

    def save_pretrained(self, save_directory: str | Path) -> Any:
        """Write its files."""


def save_checkpoint(
    directory: str | Path,
    model: nn.Module,
    layout: Layout,
    plan: Plan,
    report: Report,
    config: Mapping[str, Any],
    companions: tuple[Savable, ...] = (),
    *,
    overwrite: bool = False,
    inherited: Mapping[str, Any] | None = None,
    max_shard_size: str | int = "5GB",
    include_modeling_code: bool = False,
) -> None:
    """Write weights, companions, ``grail_config.json``, plan, report, plot (with matplotlib) and card.

    Args:
        directory: the folder to be.
        model: the compressed model, its config already describing it.
        layout: the layout before compression.
        plan: what was done.
        report: what was measured.
        config: the resolved configuration, JSON.
        companions: tokenizer and processor.
        overwrite: replace a checkpoint that is there.
        inherited: licence and language of the base model, for the card.
        max_shard_size: as in transformers' ``save_pretrained``.
        include_modeling_code: let transformers load the checkpoint with ``trust_remote_code=True`` where this package
            is not installed; nothing is written where plain transformers loads it anyway.

    Raises:
        OutputError: the folder exists, cannot be written, or the disk is full; nothing is left half-written.
    """
    with staged_folder(directory, overwrite) as folder:
        if isinstance(model, PreTrainedModel):
            if include_modeling_code and not report.standalone:
                write_remote_code_(model, folder)
            model.save_pretrained(folder, max_shard_size=max_shard_size)
        else:
            save_compressed(model, folder, layout)
        for companion in companions:
            companion.save_pretrained(folder)
        _write_json(folder / "grail_config.json", config)
        save_plan(plan, folder)
        report.save(folder)
        if can_plot(report):
            plot_errors(report, folder / PLOT)
        write_card(report, folder, inherited=inherited)


def save_plan(plan: Plan, folder: str | Path) -> None:
    """Write ``grail_plan.json`` (units kept, diagnostics) and ``grail_plan.safetensors`` (units, order, curve)."""
    tensors: dict[str, torch.Tensor] = {}
    groups: dict[str, Any] = {}
    for name, item in plan.items():
        if item.group.producers:  # of a classifier nothing goes
            tensors[f"{name}.assignment"] = item.reduction.assignment.cpu().contiguous()
        if not item.reduction.is_selection:
            tensors[f"{name}.weight"] = item.reduction.weight.cpu().contiguous()
        for key, value in (("order", item.order), ("curve", item.curve)):
            if value is not None:
                tensors[f"{name}.{key}"] = value.cpu().contiguous()
        groups[name] = {
            "kind": item.group.kind,
            "units": item.group.units,
            "kept": item.reduction.slots,
            "diagnostics": dict(item.diagnostics),
        }
    save_file(tensors, str(Path(folder) / PLAN_TENSORS))
    _write_json(Path(folder) / PLAN_FILE, {"groups": groups})


def load_reductions(folder: str | Path) -> dict[str, Reduction]:
    """How every group shrank, by group name, from a folder that :func:`save_plan` wrote.

    Raises:
        CheckpointError: there is no plan, or it is corrupt.
    """
    path = Path(folder) / PLAN_TENSORS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"Cannot read the plan {str(path)!r}: {error}. Name the folder of a compressed checkpoint."
        ) from error
    reductions = {}
    for name in (key.removesuffix(".assignment") for key in tensors if key.endswith(".assignment")):
        assignment = tensors[f"{name}.assignment"]
        weight = tensors.get(f"{name}.weight", torch.ones(len(assignment), dtype=torch.float64))
        reductions[name] = Reduction(assignment, weight, int(assignment.max()) + 1)
    return reductions


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
