"""The script that makes the corpus of general text: cleaning, cutting, what counts as seen, what the tables say."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "tools" / "corpus"


@pytest.fixture
def modules(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The script's modules, which are no package: they are found beside each other."""
    monkeypatch.syspath_prepend(str(folder))
    names = ("clean", "fetch", "readers", "card", "make")
    import make

    yield {name: sys.modules[name] for name in names} | {"make": make}
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def clean(modules: dict[str, Any]) -> Any:
    return modules["clean"]


@pytest.fixture
def readers(modules: dict[str, Any]) -> Any:
    return modules["readers"].READERS


def test_the_tables_name_what_is_there(modules: dict[str, Any], folder: Path) -> None:
    sources = tomllib.loads((folder / "sources.toml").read_text(encoding="utf-8"))["source"]
    packages = tomllib.loads((folder / "packages.toml").read_text(encoding="utf-8"))["package"]
    asked = {source["package"] for source in sources.values()}
    assert asked == {*packages, "classic-books"}
    assert {source["genre"] for source in sources.values()} == set(modules["make"].GENRES)
    assert {source["reader"] for source in sources.values()} <= set(modules["readers"].READERS)


def test_text_loses_what_no_one_reads(clean: Any) -> None:
    blob = "QUJD" * 40
    text = f"One\x00 line \r\n\n\n\nWrite to jo@mail.example.com.\n{blob}\nlast"
    assert clean.normalize(text) == "One line\n\nWrite to user@example.org.\nlast"


def test_code_loses_its_licence_but_no_other_comment(clean: Any) -> None:
    code = "// Copyright 2020 Someone\n// MIT licence\n\n// Adds one.\nint f(int a) { return a + 1; }"
    assert clean.strip_licence(code) == "// Adds one.\nint f(int a) { return a + 1; }"


def test_pieces_end_with_paragraphs_and_lose_nothing(clean: Any) -> None:
    text = "\n\n".join(f"{index}. " + "word " * 60 + "end." for index in range(60))
    pieces = clean.pieces(text, 5_000)
    assert "\n\n".join(pieces) == text
    assert all(len(piece) <= 5_400 and piece.endswith("end.") for piece in pieces)


def test_a_line_without_end_is_cut_at_sentences(clean: Any) -> None:
    pieces = clean.pieces(" ".join(f"Sentence number {index} is here." for index in range(2_000)), 6_000)
    assert len(pieces) > 5
    assert all(piece.rstrip().endswith(".") and len(piece) <= clean.MOST for piece in pieces)


def test_what_was_seen_is_not_taken_again(clean: Any) -> None:
    seen = clean.Seen()
    first = "\n\n".join(
        f"Paragraph {index} speaks of the matter {index * 7} and of nothing else at all." for index in range(60)
    )
    other = "\n\n".join(f"Here is text {index} about subject {index * 3}, unlike the other one." for index in range(60))
    seen.add(first)
    assert seen.fresh(first) is None
    assert seen.fresh(first.replace("nothing", "little", 5)) is None
    mixed = f"{other}\n\n{first.partition(chr(10) * 2)[0]}"
    assert seen.fresh(mixed) == other


def test_a_translation_keeps_no_english(clean: Any) -> None:
    english = "This is the text that the translators of the book left as it is, and it is to be left out."
    assert clean.translated(f"Ein Absatz.\n\n{english}\n\nNoch einer.", frozenset()) == "Ein Absatz.\n\nNoch einer."
    assert clean.translated("Debian 11\n\nNeu", frozenset({"Debian 11"})) == "Neu"


def test_a_page_is_read_without_its_menu(readers: Any) -> None:
    page = (
        b"<nav>Menu</nav><main><h1>Head</h1><p>Some\n <b>bold</b> text."
        b"<ul><li><p>one<li>two</ul><pre>a\n  b</pre></main>"
    )
    assert list(readers["html"]("page.html", page)) == ["Head\n\nSome bold text.\n\n- one\n- two\n\na\n  b"]


def test_restructured_text_keeps_its_formulas(readers: Any) -> None:
    source = (
        b".. _label:\n\nTitle\n=====\n\n.. image:: a.png\n   :width: 3\n\n"
        b"Use :func:`fit <a.fit>` for :math:`x^2`.\n\n.. math::\n\n   y"
    )
    assert list(readers["rst"]("a.rst", source)) == ["Title\n=====\n\nUse fit for $x^2$.\n\n   y"]


def test_conversations_name_nobody(readers: Any) -> None:
    turn = '[{"text": "Hello there", "sender": "%s"}]'
    turns = ", ".join(turn % sender for sender in "12121212")
    told = f'{{"a": {{"messages": [{turns}]}}, "b": {{"messages": [{turns.replace("Hello there", "my name is Jo")}]}}}}'
    (text,) = readers["chitchat"]("dataset.json", told.encode())
    assert text.splitlines() == ["A: Hello there", "B: Hello there"] * 4
