"""The front matter of a model card, as the Hub reads it: where a model comes from, what it is, what was measured."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData, hf_hub_download, metadata_load
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from yaml import YAMLError

from optimum_grail.checkpoints.identity import hub_id
from optimum_grail.report.report import Report

CARD = "README.md"
TAGS = ("grail", "pruned", "structured-pruning")
RELATION = "finetune"
"""Of the relations that the Hub knows, the one for changed weights in the same number format; none is for pruning."""
INHERITED = ("license", "license_name", "license_link", "language")
"""What a compressed model takes over from the card of its base model."""

TASKS: Mapping[str, tuple[str, str]] = {
    "ForCausalLM": ("AutoModelForCausalLM", "text-generation"),
    "ForMaskedLM": ("AutoModelForMaskedLM", "fill-mask"),
    "ForSequenceClassification": ("AutoModelForSequenceClassification", "text-classification"),
    "ForTokenClassification": ("AutoModelForTokenClassification", "token-classification"),
    "ForQuestionAnswering": ("AutoModelForQuestionAnswering", "question-answering"),
    "ForImageClassification": ("AutoModelForImageClassification", "image-classification"),
    "CLIPModel": ("AutoModelForZeroShotImageClassification", "zero-shot-image-classification"),
    "BertModel": ("AutoModel", "feature-extraction"),
}
"""Ending of a class name: the auto class that loads it, and the Hub's name of the task."""


def inherited_from(
    model: str | Path | None, *, revision: str | None = None, token: str | bool | None = None
) -> dict[str, Any]:
    """Licence and language that the card of ``model`` (a folder or a Hub id) states; empty: none in reach."""
    if not model:
        return {}
    path = Path(model) / CARD
    try:
        if not os.path.exists(model):
            if hub_id(model) is None:
                return {}
            path = Path(hf_hub_download(str(model), CARD, revision=revision, token=token))
        metadata = metadata_load(path)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError, YAMLError):
        return {}
    found = {key: metadata.get(key) for key in INHERITED} if isinstance(metadata, dict) else {}
    return {key: value for key, value in found.items() if _is_word(value) or (key == "language" and _is_words(value))}


def front_matter(report: Report, inherited: Mapping[str, Any], tags: tuple[str, ...] = ()) -> ModelCardData:
    """The metadata of a compressed model's card.

    Args:
        report: the run, its paths made public.
        inherited: what :func:`inherited_from` found.
        tags: more tags.
    """
    task = auto_class_and_task(report)[1]
    results = _results(report, task)
    known: dict[str, Any] = {key: inherited.get(key) for key in INHERITED}
    return ModelCardData(
        model_name=report.name if results else None,
        base_model=report.base_model,
        base_model_revision=report.revision if report.base_model else None,
        base_model_relation=RELATION if report.base_model else None,
        library_name="transformers" if report.standalone and report.model_type else "optimum-grail",
        pipeline_tag=task,
        tags=[*TAGS, *([report.model_type] if report.model_type else []), *tags],
        datasets=list(report.datasets) or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        eval_results=results or None,
        **known,
    )


def auto_class_and_task(report: Report) -> tuple[str, str | None]:
    """The auto class that loads the model and the Hub's task, or the class itself and no task."""
    name = report.model_class
    return next((found for ending, found in TASKS.items() if name.endswith(ending)), (name or "AutoModel", None))


def without_folders(value: object) -> Any:
    """``value`` (anything of JSON) with every absolute path in it cut to its last part; those that are keys of one
    mapping, as the sources of a mixture are, keep as many parts as tell them apart."""
    if isinstance(value, Mapping):
        return dict(zip(_apart(list(value)), map(without_folders, value.values()), strict=True))
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    return " + ".join(map(_last_part, value.split(" + "))) if isinstance(value, str) else value


def _last_part(path: str, parts: int = 1) -> str:
    return "/".join(Path(path).parts[1:][-parts:]) if Path(path).is_absolute() else path


def _apart(keys: Sequence[str]) -> list[str]:
    for parts in range(1, max((len(Path(key).parts) for key in keys), default=1) + 1):
        cut = [_last_part(key, parts) for key in keys]
        if len(set(cut)) == len(set(keys)):
            break
    return cut


def _results(report: Report, task: str | None) -> list[EvalResult]:
    """What was measured of the compressed model, for the Hub's model index; it takes finite numbers only."""
    return [
        EvalResult(
            task_type=task or "other",
            dataset_type=str(row.get("dataset") or "unknown"),
            dataset_name=str(row.get("dataset") or "unknown"),
            metric_type=str(row["metric"]),
            metric_name=", ".join(str(row[key]) for key in ("metric", "perturbation") if row.get(key)),
            metric_value=row["compressed"],
        )
        for row in report.evaluation
        if isinstance(row.get("compressed"), int | float) and math.isfinite(row["compressed"])
    ]


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_words(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_word(item) for item in value)
