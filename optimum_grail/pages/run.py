"""The page of a compressed checkpoint: its report for people, from the headline numbers down to every setting."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from optimum_grail.hub.card import public
from optimum_grail.pages.charts import BarChart, Column, bar_chart, shares
from optimum_grail.pages.page import Card, Page
from optimum_grail.report import fields
from optimum_grail.report.heads import head_lines
from optimum_grail.report.plots import KIND_NAMES
from optimum_grail.report.report import GroupRow, Report
from optimum_grail.report.table import (
    agreement_rows,
    asked_lines,
    change,
    comparison_rows,
    gibibytes,
    group_cells,
    marked,
    number,
    percent,
    refit_lines,
    seconds,
    told_apart,
    whole_lines,
    width_lines,
)

SAMPLES = "samples"
"""Key of a report under which texts stand that the dense and the compressed model wrote."""
MARKS: Mapping[str, str] = {
    "in corpus": "From the data set that was calibrated on, in whatever split.",
    "out of corpus": "From another source: how it does on data unlike its calibration data.",
    "not known": "Nothing tells whether this is of the calibration data's corpus.",
    "": "",
}
SERIES = (("dense", "dense"), ("plain", "plainly pruned"), ("fitted", "compressed"))
ERRORS = (("plain", "plainly pruned"), ("fitted", "fitted"), ("held", "held out"))


class Sample(TypedDict):
    """A beginning and how both models go on."""

    prompt: str
    dense: str
    compressed: str


@dataclass(frozen=True)
class ResultRow:
    """One evaluation result for people; ``bars``: class and share of the greatest value in percent."""

    name: str
    better: str
    dense: str
    plain: str
    compressed: str
    change: str
    agreement: tuple[str, ...]
    bars: tuple[tuple[str, float | None], ...]


def run_page(
    report: Report, *, title: str | None = None, licence: str = "", files: Sequence[tuple[str, int]] = ()
) -> Page:
    """The page of a compressed checkpoint.

    Args:
        report: the run.
        title: heading; by default the model's name and what was done.
        licence: as the card states it.
        files: names and bytes of what lies in the folder.

    Raises:
        CheckpointError: what the report says under ``samples`` are no samples.
    """
    report = public(report)
    return Page(
        "run.html.jinja",
        title or f"{report.name}, compressed",
        f"{percent(report.achieved)} of the blocks' parameters removed by structured pruning, "
        + ("then trained shortly on what the dense model says." if report.recovery else "without any training."),
        _badges(report, licence),
        tuple(_cards(report)),
        {**_quality(report), **_layers(report), **_making(report), "files": [(n, number(b)) for n, b in files]},
    )


def samples_of(report: Report) -> list[Sample]:
    """What both models wrote, where the report holds it.

    Raises:
        CheckpointError: it is something else.
    """
    return list(fields.read(report.extra.get(SAMPLES, []), list[Sample], f"the report[{SAMPLES}]"))


def _badges(report: Report, licence: str) -> tuple[tuple[str, str], ...]:
    loads = ("good", "plain transformers loads it") if report.standalone else ("warn", "needs import optimum_grail")
    preset = str(report.config.get("preset") or report.config.get("compensator") or "")
    words = (report.model_type, report.model_class, preset, f"licence: {licence}" if licence else "")
    return (loads, *(("", word) for word in words if word))


def _cards(report: Report) -> Iterable[Card]:
    yield Card(
        "parameters",
        change(report.parameters_before, report.parameters_after),
        f"{number(report.parameters_before)} → {number(report.parameters_after)}",
    )
    yield Card(
        "size of the weights",
        gibibytes(report.bytes_after),
        f"{gibibytes(report.bytes_before)} before ({change(report.bytes_before, report.bytes_after)})",
    )
    if len(set(report.cache_bytes)) > 1:
        before, after = report.cache_bytes[0], report.cache_bytes[-1]
        yield Card("keys and values per token", change(before, after), f"{number(before)} → {number(after)} bytes")
    for row in report.evaluation:
        if row.get("dense") is not None and row.get("compressed") is not None and not row.get("perturbation"):
            where = marked(str(row.get("dataset") or ""), row.get("corpus"))
            yield Card(
                str(row["metric"]).replace("_", " "),
                number(row["compressed"]),
                f"{number(row['dense'])} dense, {change(row['dense'], row['compressed'])}; {where}",
            )
            break
    for row in report.forward.get("latency", ())[:1]:
        spreads = row.get("dense_spread", 0.0), row.get("compressed_spread", 0.0)
        apart = told_apart(row["dense"], row["compressed"], *spreads) and row["compressed"] > 0
        value = f"{row['dense'] / row['compressed']:.2f} ×" if apart else "as fast"
        detail = f"{seconds(row['dense'])} → {seconds(row['compressed'])}, batch of {row['batch']}"
        yield Card("speed of a forward pass", value, detail if apart else f"{detail}; not told apart")


def _quality(report: Report) -> dict[str, Any]:
    by_mark: dict[str, list[ResultRow]] = {mark: [] for mark in MARKS}
    for row in report.evaluation:
        by_mark.setdefault(str(row.get("corpus") or ""), []).append(_result(row))
    plain = any(row.get("plain") is not None for row in report.evaluation)
    return {
        "asked": asked_lines(report),
        "results": [(mark, MARKS.get(mark, ""), rows) for mark, rows in by_mark.items() if rows],
        "plain_measured": plain,
        "legend": [entry for entry in SERIES if plain or entry[0] != "plain"],
        "protocols": list(dict.fromkeys(row["protocol"] for row in report.evaluation if row.get("protocol"))),
        "samples": samples_of(report),
        "comparison": [
            (name, dense, *([pruned] if plain else []), *rest) for name, dense, pruned, *rest in comparison_rows(report)
        ],
    }


def _result(row: Mapping[str, Any]) -> ResultRow:
    values = [row.get(key) for key in ("dense", "plain", "compressed")]
    higher = row.get("higher_is_better", row.get("metric") != "perplexity")
    named = str(row.get("metric")) + (f", {row['perturbation']}" if row.get("perturbation") else "")
    return ResultRow(
        f"{named} on {row['dataset']}" if row.get("dataset") else named,
        "higher is better" if higher else "lower is better",
        number(values[0]),
        number(values[1]),
        number(values[2]),
        change(values[0], values[2]),
        tuple(f"{name}: {value}" for name, *_, value, _ in agreement_rows({"agreement": row.get("agreement")})),
        tuple(zip((shows for shows, _ in SERIES), shares(values), strict=True)),
    )


def _layers(report: Report) -> dict[str, Any]:
    kinds = dict.fromkeys(row.kind for row in report.groups)
    rows = {kind: [row for row in report.groups if row.kind == kind] for kind in kinds}
    measured = {kind: [row for row in found if row.plain_error is not None] for kind, found in rows.items()}
    return {
        "width_lines": [*width_lines(report), *whole_lines(report), *head_lines(report), *refit_lines(report)],
        "widths": [_widths(kind, found) for kind, found in rows.items() if found[0].shrinks],
        "errors": [_errors(kind, found) for kind, found in measured.items() if found],
        "groups": [(row.name, *group_cells(row)) for row in report.groups],
    }


def _widths(kind: str, rows: Sequence[GroupRow]) -> BarChart:
    scale = [max(row.per_unit.values(), default=1) for row in rows]
    columns = [
        Column(str(place), row.name, (float(row.units_before * times), float(row.units_after * times)))
        for place, (row, times) in enumerate(zip(rows, scale, strict=True))
    ]
    return bar_chart(_title(kind), (("before", "before"), ("after", "after")), columns, overlaid=True)


def _errors(kind: str, rows: Sequence[GroupRow]) -> BarChart:
    held = any(row.held_error is not None for row in rows)
    series = ERRORS if held else ERRORS[:2]
    columns = [
        Column(str(place), row.name, (row.plain_error, row.fit_error, row.held_error)[: len(series)])
        for place, row in enumerate(rows)
    ]
    return bar_chart(_title(kind), series, columns)


def _title(kind: str) -> str:
    return f"{KIND_NAMES.get(kind, kind)}, in the order of the model"


def _making(report: Report) -> dict[str, Any]:
    data, recovery = report.calibration, report.recovery
    machine = [f"{name} {value}" for name, value in report.hardware.items() if name != "memory"]
    facts = {
        "base model": f"{report.base_model or ''} {report.revision or ''}".strip(),
        "calibrated on": "" if data is None else f"{data.source}: {number(data.samples)} samples",
        "SHA-256 of the samples": "" if data is None else data.sha256,
        "peak memory": "" if report.peak_memory is None else gibibytes(report.peak_memory),
        "machine": ", ".join(machine),
        "versions": ", ".join(f"{name} {value}" for name, value in report.versions.items()),
    }
    return {
        "command": report.command,
        "facts": [(name, value) for name, value in facts.items() if value],
        "sources": []
        if data is None or len(data.sources) < 2
        else [(part.name, number(part.weight), number(part.samples), number(part.tokens)) for part in data.sources],
        "times": [(stage, seconds(value)) for stage, value in report.seconds.items()],
        "warnings": [*report.warnings, *(() if data is None else data.notes)],
        "config": json.dumps(fields.finite(report.config), indent=2, ensure_ascii=False),
        "recovery": _recovery(recovery) if recovery else [],
        "curve": [(number(point["step"]), number(point["kl"], 4)) for point in recovery.get("curve", ())],
        "derived": [
            (row["name"], f"{row['metric']} on {row['dataset']}", number(row["value"]), number(row["bytes"]))
            for row in report.derived
        ],
    }


def _recovery(values: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = [("KL from the dense model, nats", "0", number(values["kl_before"]), number(values["kl_after"]))]
    if measured := values.get("evaluation"):
        dense, before, after = (number(measured[key]) for key in ("dense", "before", "after"))
        rows.append((f"{measured['metric']} on {measured['dataset']}", dense, before, after))
    return rows
