"""Draws ``docs/images/real.png``: what models that people know lose, by method and size.

python benchmarks/real_plot.py
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
from _common import REPOSITORY
from _real_models import MODELS, PEERS
from matplotlib import pyplot
from real_tables import Row, first, loss, rows_of

PICTURE = REPOSITORY / "docs" / "images" / "real.png"
SHOWN = ("default", "knapsack", "grail", "plain", *PEERS)
"""Methods with a line of their own, in the colours of the cycle."""
AXES = {
    "perplexity": "damage: ln(perplexity / dense)",
    "spearman": "Spearman lost",
    "accuracy": "top-1 lost",
    "word error": "word error gained",
}


def points(rows: Sequence[Row], method: str, dense: Row) -> list[tuple[int, float]]:
    """Size and loss of the headline, for every size that was measured."""
    found = (first(rows, method, size) for size in sorted({row["size"] for row in rows if row["size"]}))
    key, metric = dense["headline"], dense["metric"]
    return [(row["size"], loss(metric, row["scores"][key], dense["scores"][key])) for row in found if row is not None]


def main() -> None:
    """Draw a panel per model that has rows."""
    measured = [(model.name, rows_of(model.name)) for model in MODELS]
    panels = [(name, rows, dense) for name, rows in measured if (dense := first(rows, "dense", 0)) and len(rows) > 1]
    if not panels:
        raise SystemExit("There are no rows yet: python benchmarks/real.py")
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure, grid = pyplot.subplots(lines, columns, figsize=(4 * columns, 3.2 * lines), squeeze=False)
    for axes, (name, rows, dense) in zip(grid.flat, panels, strict=False):
        for place, method in enumerate(SHOWN):
            if found := points(rows, method, dense):
                axes.plot(*zip(*found, strict=True), marker="o", color=f"C{place}", label=method)
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set(title=name, xlabel="% of the blocks' parameters gone", ylabel=AXES[dense["metric"]])
        axes.legend(fontsize=7)
    for axes in list(grid.flat)[len(panels) :]:
        axes.remove()
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=110)
    print(f"{PICTURE.relative_to(REPOSITORY)} of {len(panels)} models")


if __name__ == "__main__":
    main()
