"""Writes the table of ``docs/guides/vocabulary.md`` from ``benchmarks/results/vocabulary.json``.

python benchmarks/vocabulary_tables.py [--check]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _common import REPOSITORY, read_results
from tables import machine, markdown, publish

PAGE = REPOSITORY / "docs" / "guides" / "vocabulary.md"
MARKS = "<!-- vocabulary: written by benchmarks/vocabulary_tables.py -->\n", "<!-- end of vocabulary -->\n"


def read(row: Mapping[str, Any]) -> list[str]:
    """What other texts cost: the share of the tokens that stay the same, and how many more there are."""
    return [
        f"{part['same'] / part['before']:.1%}, {part['after'] / part['before'] - 1:+.1%}" for part in row["evaluation"]
    ]


def section() -> str:
    """The text between the marks."""
    rows = read_results("vocabulary").get("rows", [])
    if not rows:
        return "Nothing is measured yet: `python benchmarks/vocabulary.py`.\n"
    others = [part["dataset"] for part in rows[0]["evaluation"]]
    table = []
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name]
        dense = [name, "all", f"{mine[0]['tokens_before']:,}", f"{mine[0]['bytes_before'] / 2**20:.0f}"]
        table.append([*dense, *["" for _ in others], ""])
        for row in mine:
            share = 1 - row["bytes_after"] / row["bytes_before"]
            size = f"{row['bytes_after'] / 2**20:.0f} (-{share:.0%})"
            table.append(["", row["text"], f"{row['tokens_after']:,}", size, *read(row), f"{row['difference']:.1g}"])
    headings = ("", "trimmed to", "tokens", "MiB of weights", *others, "largest difference of a logit")
    text = (
        "Other texts: the share of their tokens that stay the same, and how many more they have. The difference is\n"
        "that of the logits of tokens that stay, in float32, on books that both vocabularies spell alike.\n\n"
    )
    return f"{text}{markdown(headings, table)}\n{machine(rows)}".replace("## Machine", "### Machine")


def page() -> str:
    """The guide with the table of today."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    return before + MARKS[0] + section() + MARKS[1] + rest.partition(MARKS[1])[2]


if __name__ == "__main__":
    publish(PAGE, page(), "vocabulary_tables.py")
