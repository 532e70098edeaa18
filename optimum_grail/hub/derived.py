"""What was made from a compressed checkpoint (its quantized twin, above all), measured and noted in its report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optimum_grail.checkpoints.loading import load_model
from optimum_grail.evaluation.evaluate import make_metric
from optimum_grail.evaluation.stopwatch import example_inputs, take_turns
from optimum_grail.hub.card import rewrite_card
from optimum_grail.report.report import Report

WEIGHTS = ("*.safetensors", "*.bin")


def note_derived(
    parent: str | Path,
    derived: str | Path,
    result: Mapping[str, Any],
    *,
    label: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """Add a row about ``derived`` to the report of ``parent``, render the card again, and return the row.

    A row with the same name, metric and data is replaced. Size and time are measured here: one forward pass of both
    models in turns, on inputs like those of the report, each in the type of its checkpoint.

    Args:
        parent: folder of a compressed checkpoint.
        derived: folder of the model made from it.
        result: what :func:`optimum_grail.evaluation.evaluate.evaluate_path` returned for it.
        label: what to call it; by default its folder's name.
        device: where the passes are timed; a GPU if there is one by default.
        trust_remote_code: let transformers run code of the checkpoints.
        allow_pickle: read pickled weights of ``derived`` where it has no others.

    Raises:
        CheckpointError: there is no report in ``parent``, or one of the models is corrupt.
    """
    report = Report.load(parent)
    metric = make_metric(str(result["metric"]), {})
    row = {
        "name": label or Path(derived).resolve().name,
        "metric": metric.headline,
        "dataset": result["dataset"],
        "higher_is_better": metric.higher_is_better,
        "value": result[metric.headline],
        "protocol": result.get("protocol", ""),
        "bytes": sum(file.stat().st_size for pattern in WEIGHTS for file in Path(derived).glob(pattern)),
        "seconds": _seconds(report, (parent, derived), device, trust_remote_code, allow_pickle),
    }
    key = ("name", "metric", "dataset")
    others = [old for old in report.derived if any(old.get(word) != row[word] for word in key)]
    dataclasses.replace(report, derived=(*others, row)).save(parent)
    rewrite_card(parent)
    return row


def _seconds(
    report: Report, folders: Sequence[str | Path], device: str | None, trust_remote_code: bool, allow_pickle: bool
) -> dict[str, float]:
    """Time of one pass of the compressed and of the derived model; empty where the report knows no inputs."""
    if not report.forward.get("inputs"):
        return {}
    models = [
        load_model(path, device=device, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
        for path in folders
    ]
    inputs = [example_inputs(report.forward["inputs"], model) for model in models]
    compressed, other = take_turns(models, inputs)
    spreads = {"compressed_spread": compressed.spread, "derived_spread": other.spread}
    return {"compressed": compressed.seconds, "derived": other.seconds, **spreads}
