"""Figures of a report; needs matplotlib, which is an optional dependency."""

from __future__ import annotations

import io
import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_grail.errors import ConfigError, DataError
from optimum_grail.report.report import GroupRow, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT_FILE = "grail_errors.png"
KIND_NAMES = {
    "mlp": "feed-forward",
    "heads": "attention heads",
    "conv": "convolutions",
    "experts": "experts",
    "expert-channels": "channels inside experts",
    "shared-channels": "channels of shared experts",
}


def can_plot(report: Report) -> bool:
    """Whether :func:`plot_errors` has what it needs: matplotlib, and a group with a measured error."""
    return find_spec("matplotlib") is not None and bool(_measured(report))


def plot_errors(report: Report, path: str | Path | None = None) -> bytes:
    """Draw the relative error of every group, plainly pruned against fitted, one panel per kind.

    Args:
        report: a report whose groups have errors.
        path: where to write the PNG as well.

    Returns:
        The PNG.

    Raises:
        ConfigError: matplotlib is not installed.
        DataError: no group of the report has a measured error.
    """
    if find_spec("matplotlib") is None:
        raise ConfigError("Figures need matplotlib: pip install 'optimum-grail[plots]'.")
    from matplotlib.figure import Figure

    rows = _measured(report)
    if not rows:
        raise DataError("The report has no errors per group to draw: its compensator measured none.")
    kinds = list(dict.fromkeys(row.kind for row in rows))
    figure = Figure(figsize=(7, 2.6 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), squeeze=False)[:, 0]
    for kind, panel in zip(kinds, panels, strict=True):
        _draw(panel, [row for row in rows if row.kind == kind], KIND_NAMES.get(kind, kind))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    if path is not None:
        Path(path).write_bytes(buffer.getvalue())
    return buffer.getvalue()


def _measured(report: Report) -> list[GroupRow]:
    return [row for row in report.groups if row.shrinks and (row.plain_error, row.fit_error) != (None, None)]


def _draw(panel: Axes, rows: list[GroupRow], title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    places = range(len(rows))
    for label, errors, offset in (
        ("plainly pruned", [row.plain_error for row in rows], -0.2),
        ("fitted", [row.fit_error for row in rows], 0.2),
    ):
        heights = [math.nan if error is None else error for error in errors]
        panel.bar([place + offset for place in places], heights, width=0.4, label=label)
    panel.set_title(title, loc="left", fontsize=9)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.tick_params(labelsize=7)
    panel.set_xlabel("group, in the order of the model", fontsize=8)
    panel.set_ylabel("relative error", fontsize=8)
    panel.legend(fontsize=8, frameon=False)
