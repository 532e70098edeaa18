"""The page of a folder whose vocabulary was trimmed: such a folder has no report of a compression."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from optimum_grail.errors import CheckpointError
from optimum_grail.pages.page import Card, Page
from optimum_grail.report import fields
from optimum_grail.report.table import change, gibibytes, number

VOCABULARY_FILE = "grail_vocabulary.json"
"""What a trimmed folder says of itself: which tokens stayed, by their old ids, and why."""


class Text(TypedDict):
    """Tokens of one text in both vocabularies, and how many of those before are there after, at the same place."""

    name: str
    before: int
    after: int
    same: int


class Vocabulary(TypedDict):
    """What that file holds, as far as the page shows it."""

    tokens_before: int
    tokens_after: int
    rows_before: int
    rows_after: int
    bytes_before: int
    bytes_after: int
    reasons: Mapping[str, int]
    data: list[Text]
    evaluation: list[Text]
    versions: Mapping[str, str]


def read_vocabulary(folder: Path) -> Vocabulary:
    """What a trimmed folder says of itself.

    Raises:
        CheckpointError: the file cannot be read, or says something else.
    """
    path = folder / VOCABULARY_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"Cannot read {str(path)!r}: {error}. Trim the vocabulary again.") from error
    return fields.read(values, Vocabulary, VOCABULARY_FILE)  # type: ignore[no-any-return]


def vocabulary_page(values: Vocabulary, name: str, *, title: str | None = None) -> Page:
    """The page of a trimmed folder called ``name``."""
    tokens = values["tokens_before"], values["tokens_after"]
    sizes = values["bytes_before"], values["bytes_after"]
    rows = [
        ("tokens", *tokens),
        ("rows of the embedding", values["rows_before"], values["rows_after"]),
        ("bytes of the model", *sizes),
    ]
    texts = [*values["data"], *values["evaluation"]]
    return Page(
        "vocabulary.html.jinja",
        title or f"{name}, with a smaller vocabulary",
        "Tokens that its text never uses left the embedding, the head and the tokenizer.",
        tuple(("", f"{library} {version}") for library, version in values["versions"].items()),
        (
            Card("tokens", change(*tokens), f"{number(tokens[0])} → {number(tokens[1])}"),
            Card("size of the weights", gibibytes(sizes[1]), f"{gibibytes(sizes[0])} before ({change(*sizes)})"),
        ),
        {
            "sizes": [(what, number(before), number(after), change(before, after)) for what, before, after in rows],
            "texts": [_text_row(text) for text in texts],
            "reasons": [(reason, number(count)) for reason, count in values["reasons"].items()],
        },
    )


def _text_row(text: Text) -> tuple[str, ...]:
    before, after = text["before"], text["after"]
    share = text["same"] / before if before else 1.0
    return Path(text["name"]).name, number(before), number(after), change(before, after), f"{share:.2%}"
