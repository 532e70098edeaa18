"""A sweep for people: a table, and quality against parameters as a figure."""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.table import Table

from optimum_grail.errors import ConfigError
from optimum_grail.report.table import number

SWEEP_PLOT_FILE = "sweep.png"


def sweep_table(result: Mapping[str, Any]) -> Table:
    """One line per method, one column per size: the metric's figure, or the parameters where none was asked for."""
    headline = result["metric"]
    dense = result["dense"]["result"].get(headline) if headline else result["dense"]["parameters"]
    table = Table(title=f"{headline or 'parameters'}; dense {number(dense)}", title_justify="left", box=None)
    table.add_column("")
    sizes = list(dict.fromkeys(row["size"] for row in result["rows"]))
    for size in sizes:
        table.add_column(size, justify="right")
    for method in dict.fromkeys(row["method"] for row in result["rows"]):
        rows = {row["size"]: row for row in result["rows"] if row["method"] == method}
        table.add_row(method, *(_cell(rows.get(size), headline) for size in sizes))
    return table


def _cell(row: Mapping[str, Any] | None, headline: str) -> str:
    if row is None:
        return ""
    return number(row["result"].get(headline) if headline else row["parameters"])


def can_plot() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def plot_sweep(result: Mapping[str, Any], path: str | Path | None = None) -> bytes:
    """Draw quality against parameters, one line per method, the dense model as a star.

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

    headline, dense = result["metric"], result["dense"]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    panel = figure.subplots()
    for method in dict.fromkeys(row["method"] for row in result["rows"]):
        rows = sorted((row for row in result["rows"] if row["method"] == method), key=lambda row: row["parameters"])
        points = [(row["parameters"] / 1e6, row["result"][headline]) for row in rows]
        panel.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=method)
    panel.plot(dense["parameters"] / 1e6, dense["result"][headline], "k*", markersize=9, label="dense")
    if not result["higher_is_better"]:
        panel.set_yscale("log")
    panel.set_xlabel("parameters of the whole model, millions")
    panel.set_ylabel(headline.replace("_", " "))
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    if path is not None:
        Path(path).write_bytes(buffer.getvalue())
    return buffer.getvalue()
