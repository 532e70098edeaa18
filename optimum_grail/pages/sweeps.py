"""The page of a sweep: quality against size, a line per method."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from optimum_grail.errors import CheckpointError
from optimum_grail.pages.charts import LineChart, line_chart
from optimum_grail.pages.page import Card, Page
from optimum_grail.report import fields
from optimum_grail.report.sweep_view import figure_of, marked_set, sets_of
from optimum_grail.report.table import change, number, percent, seconds

LARGEST = 50_000_000
"""Bytes of a file that is read as a sweep."""


class Figures(TypedDict):
    """What was measured of a model; of several evaluation sets, by their names. Other keys are figures."""

    sets: NotRequired[Mapping[str, Mapping[str, Any]]]


class Measurement(TypedDict):
    """The dense model, as a sweep has it."""

    parameters: int
    bytes: int
    result: Figures


class Run(Measurement):
    """One compressed model of a sweep."""

    method: str
    size: str
    sparsity: float
    corpus: NotRequired[Mapping[str, str | None]]
    standalone: NotRequired[bool]
    notes: NotRequired[list[str]]
    seconds: NotRequired[float]


class Swept(TypedDict):
    """What ``sweep.json`` holds, as far as the page shows it."""

    source: str
    metric: str
    higher_is_better: bool
    dense: Measurement
    rows: list[Run]
    knees: NotRequired[Mapping[str, str]]
    versions: NotRequired[Mapping[str, str]]
    hardware: NotRequired[Mapping[str, Any]]


def read_sweep(path: Path) -> Swept:
    """The sweep in a file.

    Raises:
        CheckpointError: it cannot be read, or is no sweep.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise CheckpointError(f"{str(path)!r} is larger than {LARGEST:,} bytes; no sweep is. Restore the file.")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"Cannot read the sweep {str(path)!r}: {error}. Run `grail sweep` again.") from error
    swept: Swept = fields.read(values, Swept, "the sweep")
    if not swept["rows"]:
        raise CheckpointError(f"The sweep {str(path)!r} has no rows yet. Let `grail sweep` finish one.")
    return swept


def sweep_page(swept: Swept, *, title: str | None = None) -> Page:
    """The page of a sweep with at least one row."""
    metric, sets = swept["metric"], sets_of(swept)
    methods = list(dict.fromkeys(row["method"] for row in swept["rows"]))
    source = Path(swept["source"]).name if Path(swept["source"]).is_absolute() else swept["source"]
    charts = [_chart(swept, name, methods) for name in sets] if metric else []
    better = "Higher is better." if swept["higher_is_better"] else "Lower is better; the vertical axis is logarithmic."
    return Page(
        "sweep.html.jinja",
        title or f"{source}, compressed to several sizes",
        f"{_counted(len(swept['rows']), 'run')} of {_counted(len(methods), 'method')} on one calibration.",
        tuple(("", f"{name} {value}") for name, value in swept.get("versions", {}).items()),
        tuple(_cards(swept, sets)),
        {
            "better": better,
            "knees": list(swept.get("knees", {}).items()),
            "charts": [chart for chart in charts if chart is not None],
            "tables": [_table(swept, name, methods) for name in sets],
            "runs": [_run(row) for row in swept["rows"]],
            "notes": list(dict.fromkeys(note for row in swept["rows"] for note in row.get("notes", ()))),
        },
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count > 1)}"


def _value(item: Measurement, metric: str, name: str) -> float:
    """The figure to compare, or one that is not finite."""
    found = figure_of(item, metric, name)
    return float(found) if isinstance(found, int | float) else float("nan")


def _chart(swept: Swept, name: str, methods: Sequence[str]) -> LineChart | None:
    metric, dense = swept["metric"], swept["dense"]
    lines = [
        (
            method,
            [(row["parameters"] / 1e6, _value(row, metric, name)) for row in swept["rows"] if row["method"] == method],
        )
        for method in methods
    ]
    return line_chart(
        marked_set(swept["rows"], name) if name else "",
        lines,
        (dense["parameters"] / 1e6, _value(dense, metric, name)),
        ("parameters of the whole model, millions", metric.replace("_", " ")),
        logarithmic=not swept["higher_is_better"],
    )


def _cards(swept: Swept, sets: Sequence[str]) -> list[Card]:
    """The dense model, and the best run at every size, on the first set."""
    metric, dense = swept["metric"], swept["dense"]
    before = _value(dense, metric, sets[0])
    cards = [Card("dense", number(before) if metric else f"{dense['parameters'] / 1e6:.4g} M", metric or "parameters")]
    pick = max if swept["higher_is_better"] else min
    for size in list(dict.fromkeys(row["size"] for row in swept["rows"]))[:4] if metric else ():
        rows = [row for row in swept["rows"] if row["size"] == size]
        finite = [row for row in rows if _value(row, metric, sets[0]) == _value(row, metric, sets[0])]
        if finite:
            best = pick(finite, key=lambda row: _value(row, metric, sets[0]))
            value = _value(best, metric, sets[0])
            cards.append(
                Card(f"best at {size}", number(value), f"{best['method']}, {change(before, value)} against dense")
            )
    return cards


def _table(swept: Swept, name: str, methods: Sequence[str]) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """Heading, headings of the columns and rows: a method each, a size per column."""
    metric = swept["metric"]
    sizes = list(dict.fromkeys(row["size"] for row in swept["rows"]))
    cells = {(row["method"], row["size"]): number(figure_of(row, metric, name)) for row in swept["rows"]}
    what = (metric or "parameters").replace("_", " ") + (f" on {marked_set(swept['rows'], name)}" if name else "")
    dense = number(figure_of(swept["dense"], metric, name))
    rows = [(method, *(cells.get((method, size), "") for size in sizes)) for method in methods]
    return f"{what}; dense {dense}", ("", *sizes), rows


def _run(row: Run) -> tuple[str, ...]:
    alone = ("yes" if row["standalone"] else "no") if "standalone" in row else ""
    took = seconds(row["seconds"]) if "seconds" in row else ""
    sizes = number(row["parameters"]), number(row["bytes"])
    return row["method"], row["size"], percent(row["sparsity"]), *sizes, took, alone
