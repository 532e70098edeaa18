"""The model card: a report, rendered. It states what was measured and nothing else."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from jinja2 import Environment, StrictUndefined

from optimum_grail.checkpoints.identity import check_base_model
from optimum_grail.errors import OutputError
from optimum_grail.hub.citations import citations
from optimum_grail.hub.metadata import CARD, auto_class_and_task, front_matter, inherited_from, without_folders
from optimum_grail.hub.snippet import Snippet
from optimum_grail.report.plots import PLOT_FILE
from optimum_grail.report.report import Calibration, Report
from optimum_grail.report.table import (
    MISSING,
    NOT_TOLD_APART,
    asked_lines,
    change,
    comparison_rows,
    gibibytes,
    number,
    percent,
    seconds,
    told_apart,
)

REMOTE_CODE = "modeling_grail.py"


def build_card(
    report: Report,
    *,
    inherited: Mapping[str, Any] | None = None,
    present: Iterable[str] | None = None,
    tags: tuple[str, ...] = (),
    title: str | None = None,
) -> ModelCard:
    """Render the card of a compressed model.

    Args:
        report: the run; a card without evaluation says so.
        inherited: licence and language of the dense model, as :func:`inherited_from` finds them.
        present: names of the files that lie beside the card, which decide what it can refer to; ``None``: those that
            a text model has.
        tags: more tags for the Hub.
        title: heading; by default the model's name and what was done.

    Raises:
        jinja2.UndefinedError: the template names something the report does not have (a defect, never silent).
    """
    report = public(report)
    names = frozenset(("tokenizer.json",) if present is None else present)
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"cell": cell, "number": number, "percent": percent, "plain": plain, "shell": shell}
    template = files("optimum_grail.hub").joinpath("card.md.jinja").read_text(encoding="utf-8")
    body = environment.from_string(template).render(
        report=report,
        title=plain(title or f"{report.name}, compressed"),
        snippet=Snippet.of(report, auto_class_and_task(report), names),
        remote_code=REMOTE_CODE if REMOTE_CODE in names else "",
        plot=PLOT_FILE if PLOT_FILE in names else "",
        asked=[plain(line) for line in asked_lines(report)],
        rows=[(cell(name), *rest) for name, *rest in comparison_rows(report)],
        derived=_derived(report),
        measured=", ".join(f"{name} {item['shape']}" for name, item in report.forward.get("inputs", {}).items()),
        timed=_timed(report),
        positions=max((row.get("agreement", {}).get("positions", 0) for row in report.evaluation), default=0),
        plain_measured=any(row.get("plain") is not None for row in report.evaluation),
        protocols=list(dict.fromkeys(plain(row["protocol"]) for row in report.evaluation if row.get("protocol"))),
        errors=[row for row in report.groups if row.plain_error is not None or row.fit_error is not None],
        config=_config(report),
        made_with=_made_with(report),
        papers=citations(report.config),
    )
    data = front_matter(report, inherited or {}, tags)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")


def write_card(
    report: Report,
    folder: str | Path,
    *,
    inherited: Mapping[str, Any] | None = None,
    tags: tuple[str, ...] = (),
    title: str | None = None,
) -> Path:
    """Write the card of ``report`` to ``folder/README.md`` and return its path.

    It refers to the files in ``folder``. Without ``inherited``, a card that is there keeps its licence and language.
    A link in its place is replaced, not followed.

    Raises:
        OutputError: it cannot be written there.
    """
    path = Path(folder) / CARD
    known = inherited_from(folder) if inherited is None else inherited
    try:
        present = [file.name for file in Path(folder).iterdir()]
        card = build_card(report, inherited=known, present=present, tags=tags, title=title)
        if path.is_symlink():
            path.unlink()
        card.save(path)
    except OSError as error:
        raise OutputError(f"The card {str(path)!r} cannot be written: {error.strerror}. Make room for it.") from error
    return path


def rewrite_card(
    folder: str | Path,
    *,
    base_model: str | None = None,
    revision: str | None = None,
    licence: str | None = None,
    title: str | None = None,
    tags: tuple[str, ...] = (),
) -> Path:
    """Render the card of a checkpoint again, from its report, and return its path.

    Args:
        folder: the checkpoint.
        base_model: Hub id of the dense model, noted in the report too.
        revision: its commit.
        licence: instead of that of the card that is there, or of the base model.
        title: heading.
        tags: more tags.

    Raises:
        CheckpointError: there is no report in ``folder``, or it is damaged.
        ConfigError: ``base_model`` is no Hub id.
        OutputError: report or card cannot be written.
    """
    report = Report.load(folder)
    if base_model is not None:
        report = dataclasses.replace(report, base_model=check_base_model(base_model), revision=None)
    if revision is not None:
        report = dataclasses.replace(report, revision=revision)
    known = inherited_from(folder) or inherited_from(report.base_model, revision=report.revision)
    if licence is not None:
        known = {**known, "license": licence, "license_name": None, "license_link": None}
    report.save(folder)
    return write_card(report, folder, inherited=known, tags=tags, title=title)


def public(report: Report) -> Report:
    """``report`` with absolute paths cut to their last part: the rest tells strangers about the author's disk."""
    data = report.calibration
    told = _told_apart([str(row["dataset"]) for row in report.evaluation if row.get("dataset")])
    evaluation, derived = (
        tuple(
            without_folders({**row, **({"dataset": told[row["dataset"]]} if row.get("dataset") in told else {})})
            for row in rows
        )
        for rows in (report.evaluation, report.derived)
    )
    return dataclasses.replace(
        report,
        model=report.name,
        calibration=None if data is None else _without_folders(data),
        config=without_folders(report.config),
        evaluation=evaluation,
        derived=derived,
        recovery=without_folders(report.recovery),
        command=" ".join(shell(without_folders(word)) for word in _words(report.command)),
    )


def _told_apart(sources: Iterable[str]) -> dict[str, str]:
    """Absolute paths whose last parts are alike, and what tells them apart: as much of the end as is needed."""
    found: dict[str, str] = {}
    paths = [Path(source) for source in dict.fromkeys(sources) if Path(source).is_absolute()]
    for path in paths:
        others = [other for other in paths if other != path and other.name == path.name]
        depth = next((n for n in range(2, len(path.parts)) if all(o.parts[-n:] != path.parts[-n:] for o in others)), 1)
        if others:
            found[str(path)] = "/".join(path.parts[-depth:])
    return found


def _without_folders(data: Calibration) -> Calibration:
    notes = list(data.notes)
    for part in data.sources:  # in a mixture, notes name the source they are about
        notes = [note.replace(part.name, without_folders(part.name)) for note in notes]
    sources = tuple(dataclasses.replace(part, name=without_folders(part.name)) for part in data.sources)
    return dataclasses.replace(data, source=without_folders(data.source), notes=tuple(notes), sources=sources)


def _words(command: str) -> list[str]:
    """The words of a command line; of one that no shell would read, what blanks separate."""
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def shell(word: str) -> str:
    """``word`` as one word of a command line, all of it on one line."""
    return shlex.quote(" ".join(word.split()))


def plain(value: object) -> str:
    """``value`` as one line of Markdown that is text and nothing else: no tag, link, picture, heading or list."""
    text = " ".join(str(value).split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"^([#>+*=-])", r"\\\1", text.replace("[", "\\["))


def cell(value: object) -> str:
    """``value`` as the text of one Markdown table cell."""
    return plain(value).replace("|", "\\|").replace("`", "'")


def _made_with(report: Report) -> list[str]:
    """Versions, hardware, and what the run cost; what is not known is left out."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    hardware = dict(report.hardware)
    parts = {
        "cores": lambda value: f"{value} cores",
        "memory": lambda value: f"{gibibytes(value)} of memory",
        "device": lambda value: f"computed on {value}",
    }
    machine = [hardware.get("processor", ""), *(show(hardware[key]) for key, show in parts.items() if key in hardware)]
    cost = [seconds(sum(report.seconds.values()))] if report.seconds else []
    cost += [f"{gibibytes(report.peak_memory)} of memory at the peak"] if report.peak_memory else []
    return [plain(line) for line in (versions, ", ".join(filter(None, machine)), ", ".join(cost)) if line]


def _config(report: Report) -> str:
    """The settings that are not left to a default, as JSON."""
    kept = {key: value for key, value in report.config.items() if value is not None and key != "quant_method"}
    return json.dumps(kept, indent=2, ensure_ascii=False)


def _timed(report: Report) -> str:
    """How the passes were timed; reports without spreads are of a version that took the best time."""
    spreads = any("dense_spread" in row for row in report.forward.get("latency", ()))
    return (
        "the median of passes in turns (± half the interquartile range)"
        if spreads
        else "the best of several forward passes"
    )


def _ratio(times: Mapping[str, float]) -> str:
    spreads = times.get("derived_spread", 0.0), times.get("compressed_spread", 0.0)
    if not told_apart(times["derived"], times["compressed"], *spreads):
        return NOT_TOLD_APART
    return number(times["derived"] / times["compressed"], 3)


def _derived(report: Report) -> list[tuple[str, str, str, str, str]]:
    """Name, result, its change from the compressed model's, size, and time of a pass as a ratio to the compressed."""
    plain = [row for row in report.evaluation if not row.get("perturbation")]
    known = {(row.get("metric"), row.get("dataset"), row.get("protocol", "")): row for row in plain}
    rows = []
    for row in report.derived:
        before = known.get((row["metric"], row["dataset"], row.get("protocol", "")), {}).get("compressed")
        result = f"{row['metric']} on {row['dataset']}: {number(row['value'])}"
        times = row.get("seconds") or {}
        ratio = _ratio(times) if times.get("compressed") and "derived" in times else MISSING
        rows.append((cell(row["name"]), cell(result), change(before, row["value"]), number(row["bytes"]), ratio))
    return rows
