"""Draws ``docs/images/methods.png`` from ``benchmarks/results/methods-*.json``: one panel per model.

python benchmarks/methods_plot.py [--check]
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping

from _common import REPOSITORY, read_results
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from methods_tables import MODELS, Results, percent
from PIL import Image

IMAGE = REPOSITORY / "docs" / "images" / "methods.png"
OURS = ("knapsack", "balanced, depth", "preset grail-plus")
THEIRS = (
    "preset fisher",
    "preset ziplm",
    "preset slimgpt",
    "preset flap+grail",
    "preset grail",
    "preset liar",
    "preset wanda",
    "preset magnitude",
)
"""Of the table's methods those of most interest; all would hide one another."""
COLOURS = dict(zip((*OURS, *THEIRS), (*(f"C{index}" for index in range(10)), "black"), strict=True))

Points = Mapping[str, list[tuple[float, float, float, float]]]
"""``method -> (size in per cent, mean, least, largest figure)``."""


def points(item: Results) -> Points:
    """What is drawn of one model: damage for perplexities, else the figure."""
    found = {
        method: [
            (percent(size), sum(values) / len(values), min(values), max(values))
            for size in item.sizes
            if (values := item.figures(method, size))
        ]
        for method in (*OURS, *THEIRS)
    }
    return {method: drawn for method, drawn in found.items() if drawn}


def draw(panel: Axes, item: Results, lines: Points) -> None:
    """One line per method, its spread over the calibration draws as a band; the dense model's figure dotted."""
    for method, drawn in lines.items():
        sizes, means, least, largest = zip(*drawn, strict=True)
        style, width = ("-o", 2.2) if method in OURS else ("--o", 1.0)
        label = method.removeprefix("preset ")
        panel.plot(sizes, means, style, linewidth=width, markersize=3, label=label, color=COLOURS[method])
        panel.fill_between(sizes, least, largest, color=COLOURS[method], alpha=0.2, linewidth=0)
    if item.counts_loss:
        panel.set_yscale("log")
    else:
        panel.axhline(item.dense, color="black", linewidth=0.8, linestyle=":")
    panel.set_title(item.found["source"], loc="left", fontsize=9)
    what = item.sizes[0].rstrip("0123456789. %") or "parameters of the blocks"
    panel.set_xlabel(f"{what} gone, %", fontsize=8)
    panel.set_ylabel("damage, lower is better" if item.counts_loss else item.kind, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.3)


def figure_of(found: Mapping[str, Results], lines: Mapping[str, Points]) -> Figure:
    """All panels, and one legend in the place that is left."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    panels = figure.subplots(2, 3).flatten()
    for panel, (name, item) in zip(panels, found.items(), strict=False):
        draw(panel, item, lines[name])
    for panel in panels[len(found) :]:
        panel.axis("off")
    panels[-1].legend(*panels[0].get_legend_handles_labels(), loc="center", fontsize=9, frameon=False)
    return figure


def main() -> None:
    """Draw; with ``--check`` only see whether the image shows the result files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the image is not up to date")
    options = parser.parse_args()
    files = {name: read_results(f"methods-{name}") for name in MODELS}
    found = {name: Results(file) for name, file in files.items() if file.get("rows")}
    lines = {name: points(item) for name, item in found.items()}
    digest = hashlib.sha256(json.dumps(lines).encode()).hexdigest()
    if not options.check:
        IMAGE.parent.mkdir(exist_ok=True)
        figure_of(found, lines).savefig(IMAGE, dpi=110, metadata={"Software": None, "Source": digest})
        print(IMAGE.relative_to(REPOSITORY))
    elif not IMAGE.is_file() or Image.open(IMAGE).info.get("Source") != digest:
        raise SystemExit(f"{IMAGE.relative_to(REPOSITORY)} is not up to date: python benchmarks/methods_plot.py")


if __name__ == "__main__":
    main()
