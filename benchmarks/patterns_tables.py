"""Writes the table of ``docs/guides/patterns.md`` from ``benchmarks/results/patterns-*.json``.

python benchmarks/patterns_tables.py [--check]
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from _common import REPOSITORY, read_results
from tables import machine, markdown, publish

PAGE = REPOSITORY / "docs" / "guides" / "patterns.md"
MARKS = "<!-- patterns: written by benchmarks/patterns_tables.py -->\n", "<!-- end of patterns -->\n"
NAMES = ("SmolLM2-135M-Instruct", "llama-books-3m")
LABELS = {"structured": "no pattern: half of the blocks' parameters gone, default preset"}
INTRODUCTION = """## What it costs

Damage, ln(perplexity / perplexity dense), at 2:4, calibrated on 64 windows of the general corpus: mean over the draws,
with the range where there are several.
"""


def table_of(rows: list[Mapping[str, Any]]) -> Iterator[list[str]]:
    """A line per method."""
    (dense,) = (row["scores"] for row in rows if row["method"] == "dense")
    yield ["dense (perplexity)", "", *(f"{value:.2f}" for value in dense.values()), ""]
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for row in rows:
        if row["method"] != "dense":
            damage = {name: math.log(value / dense[name]) for name, value in row["scores"].items()}
            found[row["method"]].append({**damage, "mean": fmean(damage.values())})
    for method, draws in found.items():
        figures = []
        for name in draws[0]:
            values = [draw[name] for draw in draws]
            spread = f" ({min(values):.3f} to {max(values):.3f})" if name == "mean" and len(values) > 1 else ""
            figures.append(f"{fmean(values):.3f}{spread}")
        yield [LABELS.get(method, method), str(len(draws)), *figures]


def section() -> str:
    """The text between the marks."""
    results = {name: read_results(f"patterns-{name}").get("rows", []) for name in NAMES}
    results = {name: rows for name, rows in results.items() if any(row["method"] == "dense" for row in rows)}
    if not results:
        return "Nothing is measured yet: `python benchmarks/patterns.py`.\n"
    parts = [INTRODUCTION]
    for name, rows in results.items():
        dense = next(row["scores"] for row in rows if row["method"] == "dense")
        parts += [f"### {name}\n", markdown(("", "draws", *dense, "mean"), list(table_of(rows)))]
    return "\n".join([*parts, machine([row for rows in results.values() for row in rows])])


def page() -> str:
    """The guide with the table of today."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    return before + MARKS[0] + section() + MARKS[1] + rest.partition(MARKS[1])[2]


if __name__ == "__main__":
    publish(PAGE, page(), "patterns_tables.py")
