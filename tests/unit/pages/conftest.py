"""Markup, parsed; a sweep to hand out."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Parsed(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} is closed where another is open"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        """All that is read, blanks made one."""
        return " ".join(" ".join(self.words).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all tags of that name."""
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def swept() -> dict[str, Any]:
    """A sweep of two methods to two sizes, on two sets."""
    return {
        "model": "0" * 64,
        "source": "/home/someone/models/a-model",
        "metric": "perplexity",
        "higher_is_better": False,
        "versions": {"torch": "2.13.0"},
        "hardware": {"processor": "a", "cores": 2},
        "knees": {"wanda": "0.3"},
        "dense": {"parameters": 1_000_000, "bytes": 2_000_000, "result": _result(20.0)},
        "rows": [_row(method, size) for method in ("grail-plus", "wanda") for size in (0.3, 0.5)],
    }


def _result(value: float) -> dict[str, Any]:
    return {"perplexity": value, "sets": {"wiki": {"perplexity": value}, "books": {"perplexity": value / 2}}}


def _row(method: str, size: float) -> dict[str, Any]:
    return {
        "method": method,
        "size": f"{size:g}",
        "config": {},
        "parameters": int(1e6 * (1 - size)),
        "bytes": int(2e6 * (1 - size)),
        "sparsity": size,
        "result": _result(20 * (1 + size) * (1 if method == "grail-plus" else 2)),
        "corpus": {"wiki": "in corpus", "books": None},
        "standalone": method == "wanda",
        "notes": ["a note"],
        "seconds": 12.5,
    }
