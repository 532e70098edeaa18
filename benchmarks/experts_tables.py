"""Writes the table of ``docs/guides/experts.md`` from ``benchmarks/results/experts.json``.

python benchmarks/experts_tables.py [--check]
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from _common import REPOSITORY, read_results
from tables import machine, markdown, publish

PAGE = REPOSITORY / "docs" / "guides" / "experts.md"
MARKS = "<!-- experts: written by benchmarks/experts_tables.py -->\n", "<!-- end of experts -->\n"
NAMES = {"none": "nothing refitted", "grail-plus": "refitted together", "one by one": "refitted one by one"}


def cell(rows: list[Mapping[str, Any]], name: str) -> str:
    """Mean damage on a set, with the range where several seeds were drawn."""
    values = [row["damage"][name] for row in rows]
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


def section() -> str:
    """The text between the marks."""
    results = read_results("experts")
    kinds = dict.fromkeys((row["experts"], row["expert_selector"], row["refit"]) for row in results["rows"])
    lines = []
    for kept, selector, refit in sorted(kinds, key=lambda kind: (-kind[0], list(kinds).index(kind))):
        rows = [
            row
            for row in results["rows"]
            if (row["experts"], row["expert_selector"], row["refit"]) == (kept, selector, refit)
        ]
        lines.append([f"{kept} of 8", selector, NAMES[refit], *(cell(rows, name) for name in results["sets"])])
    dense = ", ".join(f"{name} {value:.1f}" for name, value in results["dense"]["perplexity"].items())
    text = (
        f"`{results['model']}` (perplexity {dense}), calibrated on 128 windows of 256 tokens of other books.\n"
        "Damage: the logarithm of the perplexity over the dense model's, on books like those and on another corpus.\n\n"
    )
    table = markdown(("experts that stay", "chosen by", "the others", *results["sets"]), lines)
    return f"{text}{table}\n{machine([results])}"


def page() -> str:
    """The guide with the table of today."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    return before + MARKS[0] + section() + MARKS[1] + rest.partition(MARKS[1])[2]


if __name__ == "__main__":
    publish(PAGE, page(), "experts_tables.py")
