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
KEY = ("experts", "expert_ffn_sparsity", "expert_selector", "refit")
EXPERTS, CHANNELS = 8, 192
"""Of every layer, and of every expert, in the dense model."""
NAMES = {"none": "nothing refitted", "grail-plus": "refitted together", "one by one": "refitted one by one"}


def cell(rows: list[Mapping[str, Any]], name: str) -> str:
    """Mean damage on a set, with the range where several seeds were drawn."""
    values = [row["damage"][name] for row in rows]
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


def size(row: Mapping[str, Any]) -> tuple[int, int]:
    """How rows are sorted: those that halve the experts' parameters last, whole experts first."""
    return round(-row["parameters"] / 5e5), int("expert_ffn_sparsity" in row) * (2 - bool(row["experts"]))


def section() -> str:
    """The text between the marks."""
    results = read_results("experts")
    kinds: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in results["rows"]:
        kinds.setdefault(tuple(row.get(name) for name in KEY), []).append(row)
    lines = []
    for (kept, sparsity, selector, refit), rows in sorted(kinds.items(), key=lambda item: size(item[1][0])):
        width = round(CHANNELS * (1 - (sparsity or 0)))
        chosen = selector if kept else "-"
        what = [f"{kept or EXPERTS} of {EXPERTS}", f"{width} of {CHANNELS}", chosen, NAMES[refit]]
        parameters = f"{rows[0]['parameters'] / 1e6:.2f}"
        lines.append([*what, parameters, *(cell(rows, name) for name in results["sets"])])
    dense = ", ".join(f"{name} {value:.1f}" for name, value in results["dense"]["perplexity"].items())
    text = (
        f"`{results['model']}` (perplexity {dense}), calibrated on 128 windows of 256 tokens of other books.\n"
        "Damage: the logarithm of the perplexity over the dense model's, on books like those and on another corpus.\n"
        "Channels are chosen by the preset's selector. In brackets: the range over three random choices.\n\n"
    )
    heads = ("experts that stay", "channels in each", "experts chosen by", "what reads them", "million parameters")
    table = markdown((*heads, *results["sets"]), lines)
    return f"{text}{table}\n{machine([results])}"


def page() -> str:
    """The guide with the table of today."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    return before + MARKS[0] + section() + MARKS[1] + rest.partition(MARKS[1])[2]


if __name__ == "__main__":
    publish(PAGE, page(), "experts_tables.py")
