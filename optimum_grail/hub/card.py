"""The model card: a report, rendered. It states what was measured and nothing else."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, hf_hub_download, metadata_load
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from jinja2 import Environment, StrictUndefined

from optimum_grail.hub.citations import citations
from optimum_grail.report.report import Report
from optimum_grail.report.table import asked_lines, change, comparison_rows, number, percent

FILE_NAME = "README.md"
TAGS = ("grail", "pruned", "structured-pruning")
REPOSITORY_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

TASKS: Mapping[str, tuple[str, str]] = {
    "ForCausalLM": ("AutoModelForCausalLM", "text-generation"),
    "ForMaskedLM": ("AutoModelForMaskedLM", "fill-mask"),
    "ForSequenceClassification": ("AutoModelForSequenceClassification", "text-classification"),
    "ForTokenClassification": ("AutoModelForTokenClassification", "token-classification"),
    "ForQuestionAnswering": ("AutoModelForQuestionAnswering", "question-answering"),
    "ForImageClassification": ("AutoModelForImageClassification", "image-classification"),
}
"""Ending of a class name: the auto class that loads it, and the Hub's name of the task."""

PROCESSORS: Mapping[str, str] = {
    "vit": "AutoImageProcessor",
    "resnet": "AutoImageProcessor",
    "clip": "AutoProcessor",
    "clip_vision_model": "AutoImageProcessor",
}
"""Model types that do not start from a tokenizer."""


def hub_id(model: str | Path) -> str | None:
    """``model`` if it reads like a Hub id and no such folder exists here, else ``None``.

    An owner is required (``owner/name``): a bare name may as well be a class or a folder that has gone.
    """
    text = str(model)
    return text if REPOSITORY_ID.fullmatch(text) and not Path(text).exists() else None


def licence_of(model: str | Path, *, revision: str | None = None, token: str | bool | None = None) -> str | None:
    """The licence that the card of ``model`` (a folder or a Hub id) states; ``None``: none in reach."""
    path = Path(model) / FILE_NAME
    try:
        if not Path(model).exists():
            if hub_id(model) is None:
                return None
            path = Path(hf_hub_download(str(model), FILE_NAME, revision=revision, token=token))
        metadata = metadata_load(path) or {}
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError):
        return None
    licence = metadata.get("license")
    return licence if isinstance(licence, str) else None


def build_card(report: Report, *, licence: str | None = None, title: str | None = None) -> ModelCard:
    """Render the card of a compressed model.

    Args:
        report: the run; a card without evaluation says so.
        licence: licence identifier of the dense model, inherited.
        title: heading; by default the model's name and what was done.

    Raises:
        jinja2.UndefinedError: the template names something the report does not have (a defect, never silent).
    """
    report = public(report)
    auto_class, task = _task(report.model_class)
    data = ModelCardData(
        library_name="transformers" if report.standalone and report.model_type else "optimum-grail",
        base_model=report.base_model,
        license=licence,
        pipeline_tag=task,
        tags=[*TAGS, *([report.model_type] if report.model_type else [])],
    )
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"cell": cell, "number": number, "percent": percent}
    template = files("optimum_grail.hub").joinpath("card.md.jinja").read_text(encoding="utf-8")
    body = environment.from_string(template).render(
        report=report,
        title=title or f"{report.name}, compressed",
        auto_class=auto_class,
        processor=PROCESSORS.get(report.model_type, "AutoTokenizer"),
        generates=task == "text-generation",
        asked=asked_lines(report),
        rows=_table(report),
        plain_measured=any(row.get("plain") is not None for row in report.evaluation),
        config={key: value for key, value in report.config.items() if value is not None and key != "quant_method"},
        papers=citations(report.config),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")


def write_card(report: Report, folder: str | Path, *, licence: str | None = None, title: str | None = None) -> Path:
    """Write the card of ``report`` to ``folder/README.md`` and return its path."""
    path = Path(folder) / FILE_NAME
    build_card(report, licence=licence, title=title).save(path)
    return path


def public(report: Report) -> Report:
    """``report`` with absolute paths cut to their last part: the rest tells strangers about the author's disk."""
    data = report.calibration
    return dataclasses.replace(
        report,
        model=report.name,
        calibration=None if data is None else dataclasses.replace(data, source=_last_part(data.source)),
        config={key: _last_part(value) for key, value in report.config.items()},
        evaluation=tuple({key: _last_part(value) for key, value in row.items()} for row in report.evaluation),
        command=" ".join(_last_part(word) for word in report.command.split(" ")),
    )


def _last_part(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def cell(value: Any) -> str:
    """``value`` as the text of one Markdown table cell."""
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("`", "'")


def _task(model_class: str) -> tuple[str, str | None]:
    """The auto class that loads ``model_class`` and the Hub's task, or the class itself and no task."""
    for ending, (auto_class, task) in TASKS.items():
        if model_class.endswith(ending):
            return auto_class, task
    return model_class or "AutoModel", None


def _table(report: Report) -> list[tuple[str, str, str, str, str]]:
    return [
        (cell(name), number(dense), number(plain), number(compressed), change(dense, compressed))
        for name, dense, plain, compressed in comparison_rows(report)
    ]
