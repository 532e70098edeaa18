"""The card beside the corpus: what is in it, where it comes from, under which licences."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from fetch import Package

_HEAD = """# General text

{documents:,} documents, {characters:,} characters, {bytes:,} bytes: the calibration corpus that `--dataset general`
reads. It is meant for choosing what stays of a language model and for refitting what stays, where no text of the
model's own use is at hand. It is no training set and no benchmark.

Made by `tools/corpus/make.py` in the project's repository from public archives that are pinned by version and sha256;
the same archives give the same bytes, and `make.py --check` compares them with these files. Which files of an archive
are read and how is in `tools/corpus/sources.toml`. The texts are changed: cut into documents of 2,000 to 20,000
characters, without licence headers, menus, control characters, minified lines, encoded blobs, mail addresses,
paragraphs that occurred before, documents with slurs, and documents that share more than a fifth of their runs of eight
words with earlier ones. Columns: `text`, `genre`, `source` (the keys below).

- general.parquet: sha256 {sha256}
- nothing that the project's tests and benchmarks evaluate on is in it; a test compares runs of eight words
- each text stays under its own licence, named below with the credit that it asks for. What is under CC-BY-SA stays so:
  who passes it on changed does it under the same licence

## Genres

| genre | documents | characters | share |
|---|---:|---:|---:|"""

_MIDDLE = """
## Sources

| source | what | genre | licence | credit | archive | characters | share |
|---|---|---|---|---|---|---:|---:|"""

_FILES = """
## Archives

| archive | from | sha256 |
|---|---|---|"""

_LIMITS = """
## Known limits

- English prose before 1929, software manuals and the talk of American students weigh more than they do elsewhere; there
  are no newspapers, no scientific papers and no web pages.
- `news` is public affairs: addresses of presidents to Congress up to 2021, and short histories of countries, written
  about 2015.
- `instruction` is about programming: a book, exercises, explained solutions.
- The fiction speaks of people as its time did.
- The conversations are as people typed them, with their errors and opinions. Those with web or mail addresses,
  telephone numbers or the usual phrases around names are left out; first names may occur.
- Other languages than English are a sample: each has a few pages.
"""


class Row(Protocol):
    """What the card reads of a document."""

    text: str
    genre: str
    source: str


def card(
    documents: Sequence[Row],
    sources: dict[str, dict[str, Any]],
    packages: dict[str, Package],
    books: dict[str, str],
    parquet: bytes,
) -> str:
    """The card as Markdown.

    Args:
        documents: the rows in their order.
        sources: the table of sources.
        packages: the archives by key.
        books: files of classic-books and their sha256.
        parquet: the finished file.
    """
    total = sum(len(row.text) for row in documents)
    by_source, by_genre, counts = Counter[str](), Counter[str](), Counter[str](row.genre for row in documents)
    for row in documents:
        by_source[row.source] += len(row.text)
        by_genre[row.genre] += len(row.text)
    head = _HEAD.format(
        documents=len(documents), characters=total, bytes=len(parquet), sha256=hashlib.sha256(parquet).hexdigest()
    )
    genres = [f"| {name} | {counts[name]} | {size:,} | {size / total:.1%} |" for name, size in by_genre.items()]
    rows = [_source_row(key, sources[key], size, total) for key, size in by_source.items()]
    used = {sources[key]["package"] for key in by_source}
    archives = [
        f"| {key} | {_origin(package)} | {package.sha256} |" for key, package in packages.items() if key in used
    ]
    archives += [f"| classic-books | data folder, classic-books/{file} | {sha256} |" for file, sha256 in books.items()]
    tables = (head, "\n".join(genres), _MIDDLE, "\n".join(rows), _FILES, "\n".join(archives), _LIMITS)
    licences = (Path(__file__).resolve().parent / "licences.md").read_text(encoding="utf-8")
    return "\n".join(part.rstrip("\n") for part in tables) + "\n" + licences


def _source_row(key: str, source: dict[str, Any], size: int, total: int) -> str:
    fields = (source["title"], source["genre"], source["licence"], source["credit"], source["package"])
    return f"| {key} | {' | '.join(fields)} | {size:,} | {size / total:.1%} |"


def _origin(package: Package) -> str:
    return f"{package.registry}: {package.name} {package.version}, {package.file}"
