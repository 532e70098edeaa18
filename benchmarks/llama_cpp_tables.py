"""Writes the table of ``docs/guides/export.md`` from ``benchmarks/results/llama_cpp.json``.

python benchmarks/llama_cpp_tables.py [--check]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _common import REPOSITORY, read_results
from tables import markdown, publish

PAGE = REPOSITORY / "docs" / "guides" / "export.md"
MARKS = "<!-- llama.cpp: written by benchmarks/llama_cpp_tables.py -->\n", "<!-- end of llama.cpp -->\n"
SHOWN = ("f32", "q8_0", "q4_0")
NOISE = 2e-4
"""Divergences below this are float32's own; over the likeliest tokens only they can be negative."""


def divergence(value: float) -> str:
    """A divergence for people."""
    return f"< {NOISE:g}" if abs(value) < NOISE else f"{value:.1e}"


def line(row: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    model, _, changed = row["model"].partition(", ")
    same = f"{row['same_tokens']}/{row['steps']}"
    counts = f"{row['bytes']:,}", str(row["f16_matrices"] if row["type"].startswith("q") else 0)
    speed = f"{row['tokens_per_second']:.1f}"
    return [
        f"{changed or f'{model}, dense'}, {row['type']}",
        row["architecture"],
        *counts,
        divergence(row["kl"]),
        same,
        speed,
    ]


def page() -> str:
    """The guide with the table of today."""
    rows = [row for row in read_results("llama_cpp")["rows"] if row["type"] in SHOWN]
    table = markdown(("", "as", "bytes", "f16 rows", "KL", "same tokens", "tokens/s"), [line(row) for row in rows])
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    return before + MARKS[0] + table + MARKS[1] + rest.partition(MARKS[1])[2]


if __name__ == "__main__":
    publish(PAGE, page(), "llama_cpp_tables.py")
