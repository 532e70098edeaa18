"""A sweep for people: a table, and quality against parameters as a figure."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from optimum_grail.errors import ConfigError
from optimum_grail.report.table import marked, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SWEEP_FILE, SWEEP_PLOT_FILE = "sweep.json", "sweep.png"


def sweep_table(result: Mapping[str, Any]) -> Table:
    """One line per method (of several evaluation sets: per method and set), one column per size: the metric's figure,
    or the parameters where none was asked for. Sets are marked as in or out of the corpus that was calibrated on."""
    headline, sets = result["metric"], sets_of(result)
    dense = [figure_of(result["dense"], headline, name) for name in sets]
    table = Table(title=Text(_title(result), no_wrap=True, overflow="ignore"), title_justify="left", box=None)
    table.caption, table.caption_justify = _knees(result), "left"
    table.add_column("", overflow="fold")
    sizes = list(dict.fromkeys(row["size"] for row in result["rows"]))
    for heading in (*(["dense"] if len(sets) > 1 else []), *sizes):
        table.add_column(heading, justify="right")
    for method in dict.fromkeys(row["method"] for row in result["rows"]):
        rows = {row["size"]: row for row in result["rows"] if row["method"] == method}
        for name, before in zip(sets, dense, strict=True):
            cells = [number(figure_of(rows[size], headline, name)) if size in rows else "" for size in sizes]
            marked = marked_set(rows.values(), name)
            label, first = (f"{method} on {marked}", [number(before)]) if name else (method, [])
            table.add_row(Text(label), *first, *cells)
    return table


def _knees(result: Mapping[str, Any]) -> Text | None:
    """Where quality begins to fall faster than parameters go."""
    found = [f"{method} {size}" for method, size in result.get("knees", {}).items()]
    text = f"Knee of the curve: {', '.join(found)}. Beyond it a parameter costs more than before."
    return Text(text, no_wrap=True, overflow="ignore") if found else None


def _title(result: Mapping[str, Any]) -> str:
    headline, sets = result["metric"] or "parameters", sets_of(result)
    if len(sets) > 1:
        return str(headline)
    names = list(dict.fromkeys(name for row in result["rows"] for name in row.get("corpus") or {}))
    measured = f" on {marked_set(result['rows'], names[0])}" if names else ""
    return f"{headline}{measured}; dense {number(figure_of(result['dense'], result['metric'], ''))}"


def sets_of(result: Mapping[str, Any]) -> list[str]:
    """The names of several evaluation sets; an empty name stands for the only one."""
    return list(result["dense"]["result"].get("sets") or [""])


def figure_of(item: Mapping[str, Any], headline: str, name: str) -> Any:
    """The figure to compare of the dense model or of a row, on the set ``name``."""
    if not headline:
        return item["parameters"]
    found = item["result"].get("sets", {}).get(name, {}) if name else item["result"]
    return found.get(headline)


def marked_set(rows: Iterable[Mapping[str, Any]], name: str) -> str:
    """A set's name with what its corpus is to those rows: of rows that were not calibrated, nothing is known."""
    marks = {(row.get("corpus") or {}).get(name) for row in rows} - {None}
    return marked(name, marks.pop() if len(marks) == 1 else None)


def can_plot() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def plot_sweep(result: Mapping[str, Any], path: str | Path | None = None) -> bytes:
    """Draw quality against parameters, one panel per evaluation set, one line per method with a ring around its knee,
    the dense model as a star.

    Args:
        result: what :meth:`optimum_grail.sweep.Sweep.run` returned, with a metric.
        path: where to write the PNG as well.

    Returns:
        The PNG.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    if not can_plot():
        raise ConfigError("Figures need matplotlib: pip install 'optimum-grail[plots]'.")
    from matplotlib.figure import Figure

    sets = sets_of(result)
    figure = Figure(figsize=(7, 4.5 * len(sets)), layout="constrained")
    for name, panel in zip(sets, figure.subplots(len(sets), squeeze=False)[:, 0], strict=True):
        _draw(panel, result, name)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    if path is not None:
        Path(path).write_bytes(buffer.getvalue())
    return buffer.getvalue()


def _draw(panel: Axes, result: Mapping[str, Any], name: str) -> None:
    """Quality on one set against parameters."""
    headline, dense = result["metric"], result["dense"]
    for method in dict.fromkeys(row["method"] for row in result["rows"]):
        rows = sorted((row for row in result["rows"] if row["method"] == method), key=lambda row: row["parameters"])
        points = [(row["parameters"] / 1e6, figure_of(row, headline, name)) for row in rows]
        (line,) = panel.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=method)
        bent = [at for at, row in zip(points, rows, strict=True) if row["size"] == result.get("knees", {}).get(method)]
        panel.plot(*zip(*bent, strict=True), "o", markersize=9, fillstyle="none", color=line.get_color())
    panel.plot(dense["parameters"] / 1e6, figure_of(dense, headline, name), "k*", markersize=9, label="dense")
    if not result["higher_is_better"]:
        panel.set_yscale("log")
    if name:
        panel.set_title(marked_set(result["rows"], name), fontsize=8)
    panel.set_xlabel("parameters of the whole model, millions")
    panel.set_ylabel(headline.replace("_", " "))
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7, frameon=False)
