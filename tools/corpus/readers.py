"""Files of packages to plain texts: one reader per form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

from clean import normalize, strip_licence

Reader = Callable[[str, bytes], Iterator[str]]

READERS: dict[str, Reader] = {}
"""Readers by the name that the table of sources uses: from a file's name and content to its texts."""

_BLOCKS = frozenset(
    [
        "p",
        "div",
        "section",
        "article",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "ul",
        "ol",
        "dl",
        "dt",
        "dd",
        "li",
        "table",
        "tr",
        "blockquote",
        "pre",
        "header",
        "footer",
        "main",
        "br",
        "hr",
    ]
)
_SKIPPED_TAGS = frozenset({"script", "style", "head", "nav", "svg", "button", "form", "noscript"})
_SKIPPED = frozenset({"nosearch", "docnav", "producttitle", "boring", "title_page", "titlepage-legal", "fancy_toc"})
_SKIPPED |= {
    "menu-title",
    "left-buttons",
    "right-buttons",
    "ebook",
    "nav-chapters",
    "nav-wrapper",
    "buttons",
    "toc",
    "fancy-toc1",
    "keywords",
    "indexterm",
    "no_print",
    "rule",
}
_MENU = frozenset({"Download the ebook", "Small. Fast. Reliable.", "Choose any three."})
_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]
)


def reader(function: Reader) -> Reader:
    """Enter a reader under its own name."""
    READERS[function.__name__] = function
    return function


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


@reader
def text(name: str, data: bytes) -> Iterator[str]:
    """Prose in a plain file."""
    yield normalize(_decode(data))


@reader
def code(name: str, data: bytes) -> Iterator[str]:
    """Source code, without its licence header."""
    yield normalize(strip_licence(_decode(data)), code=True)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._open: list[tuple[str, bool]] = []
        self._verbatim = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        classes = set((dict(attrs).get("class") or "").split())
        hidden = tag in _SKIPPED_TAGS or bool(classes & _SKIPPED) or self.hidden
        if tag in _BLOCKS and not hidden:
            self.parts.append("\n- " if tag == "li" else "\n" if tag in ("br", "tr") else "\n\n")
        if tag not in _VOID:
            self._open.append((tag, hidden))
            self._verbatim += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID or tag not in {name for name, _ in self._open}:
            return
        hidden = False
        while self._open:
            name, hidden = self._open.pop()
            self._verbatim -= name == "pre"
            if name == tag:
                break
        if tag in _BLOCKS and tag != "li" and not hidden:
            self.parts.append(" | " if tag in ("td", "th") else "\n\n")

    @property
    def hidden(self) -> bool:
        return bool(self._open) and self._open[-1][1]

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data if self._verbatim else re.sub(r"\s+", " ", data))


@reader
def html(name: str, data: bytes) -> Iterator[str]:
    """What a page says, without menus; code blocks keep their lines."""
    page = _Page()
    page.feed(_decode(data))
    page.close()
    lines = [line if line.startswith("  ") else line.strip() for line in "".join(page.parts).split("\n")]
    lines = [line for line in lines if line not in _MENU]
    joined = re.sub(r"^-\n+(?=[^\n-])", "- ", normalize("\n".join(lines)), flags=re.MULTILINE)
    yield normalize(re.sub(r"^-$", "", joined, flags=re.MULTILINE))


_ROLE = re.compile(r":[a-zA-Z:_-]+:`~?\.?([^`<]*?)\s*(?:<[^`>]*>)?`")
_DIRECTIVE = re.compile(
    r"^(?P<indent> *)\.\. (?:toctree|currentmodule|auto\w+|figure|image"
    r"|only|index|module|role|default-role|meta|sectnum|plot|raw|include|contents|ipython|sectionauthor|testsetup|container|rst-class|py:|_|\|)[^\n]*\n"
    r"(?:(?:(?P=indent) +[^\n]*)?\n)*",
    re.MULTILINE,
)


@reader
def rst(name: str, data: bytes) -> Iterator[str]:
    """reStructuredText without labels, tables of contents and images; mathematics stays LaTeX."""
    source = re.sub(r":math:`([^`]*)`", r"$\1$", _decode(data))
    source = re.sub(r"^:[A-Z][\w ]*: .*\n", "", source, flags=re.MULTILINE)  # author, date, copyright
    source = _DIRECTIVE.sub("\n", source + "\n")
    source = re.sub(r"^ *\.\. math::\s*$", "", source, flags=re.MULTILINE)
    source = re.sub(r"^( *)\.\. (\w+)::", r"\1\2:", source, flags=re.MULTILINE)
    source = _ROLE.sub(lambda found: found.group(1), source)
    yield normalize(re.sub(r"`([^`<]+?)\s*<[^`>]*>`__?", r"\1", source))


@reader
def markdown(name: str, data: bytes) -> Iterator[str]:
    """Markdown as it is written."""
    yield normalize(re.sub(r"<!--.*?-->", "", _decode(data), flags=re.DOTALL))


@reader
def snippets(name: str, data: bytes) -> Iterator[str]:
    """A README of code snippets: each headline of the third rank with its explanation and example is one text."""
    source = re.sub(
        r"</?details>|</?summary>| !\[advanced\]\([^)]*\)|<br>\[⬆ Back to top\]\(#contents\)", "", _decode(data)
    )
    for part in re.split(r"^(?=### )", source, flags=re.MULTILINE)[1:]:
        if "```" in part:
            yield normalize(re.split(r"^---$", part, flags=re.MULTILINE)[0])


_PERSONAL = re.compile(r"@|https?:|www\.|\d{3}[-. )]*\d{4}|instagram|snapchat|facebook|my name is|phone number", re.I)


@reader
def chitchat(name: str, data: bytes) -> Iterator[str]:
    """Conversations of two people who typed to each other; one text each."""
    for _, conversation in sorted(json.loads(data).items()):
        turns = [
            (turn[0]["sender"], " ".join(part["text"].strip() for part in turn)) for turn in conversation["messages"]
        ]
        names = {sender: f"{'AB'[index % 2]}" for index, sender in enumerate(dict.fromkeys(who for who, _ in turns))}
        told = "\n".join(f"{names[sender]}: {' '.join(said.split())}" for sender, said in turns if sender in names)
        if len(names) == 2 and len(turns) >= 8 and not _PERSONAL.search(told):
            yield normalize(told)


@reader
def chatterbot(name: str, data: bytes) -> Iterator[str]:
    """Lists of exchanges, each a question and its answers."""
    import yaml

    told = yaml.safe_load(data)
    exchanges = [turns for turns in told.get("conversations", ()) if len(turns) > 1]
    blocks = ["\n".join(f"- {turn}" for turn in turns) for turns in exchanges]
    if blocks:
        yield normalize("\n\n".join(dict.fromkeys(blocks)))


@reader
def factbook_story(name: str, data: bytes) -> Iterator[str]:
    """A country's history and economy in paragraphs."""
    page = json.loads(data)
    story = (page.get("Introduction", {}).get("Background", {}), page.get("Economy", {}).get("Economy - overview", {}))
    told = [part.get("text", "") for part in story]
    country = _country(page)
    if country and sum(map(len, told)) > 500:
        yield normalize(f"{country}\n\n" + "\n\n".join(_split_plus(part) for part in told if part))


@reader
def factbook_facts(name: str, data: bytes) -> Iterator[str]:
    """A country's geography, people and government, one line per fact."""
    page = json.loads(data)
    lines = [f"{_country(page)}: facts"]
    for section in ("Geography", "People and Society", "Government", "Energy", "Communications", "Transportation"):
        lines.append(f"\n{section}\n")
        for key, value in page.get(section, {}).items():
            lines += _facts(key, value)
    yield normalize("\n".join(lines))


def _country(page: dict[str, Any]) -> str:
    names = page.get("Government", {}).get("Country name", {})
    return next(
        (names[key]["text"] for key in ("conventional short form", "conventional long form") if key in names), ""
    )


def _facts(key: str, value: Any) -> list[str]:
    if not isinstance(value, dict):
        return []
    if value.get("text"):
        return [f"{key}: {_split_plus(value['text'])}"]
    told = {name: part["text"] for name, part in value.items() if isinstance(part, dict) and part.get("text")}
    return [f"{key}: " + "; ".join(f"{name}: {part}" for name, part in told.items())] if told else []


def _split_plus(told: str) -> str:
    return re.sub(r"\s*\+\+\s*", "\n\n", told)


@reader
def jargon(name: str, data: bytes) -> Iterator[str]:
    """A dictionary file: entries start in the first column."""
    for entry in re.split(r"\n(?=[A-Za-z0-9])", _decode(data)):
        head, _, body = entry.partition("\n")
        if len(body) > 200 and not head.startswith("00-"):
            yield normalize(head + "\n" + re.sub(r"^    ", "", re.sub(r"[{}]", "", body), flags=re.MULTILINE))


@reader
def metamath(name: str, data: bytes) -> Iterator[str]:
    """Theorems with the comments that explain them; the proofs' compressed letters are left out."""
    statement = re.compile(
        r"\$\(\s*((?:(?!\$\)).){80,}?)\s*\$\)\s*(?:\S+ \$e \|- [^$]*\$\.\s*)*(\S+) \$p (\|- [^$]*?) \$=", re.DOTALL
    )
    for found in statement.finditer(_decode(data)):
        comment = re.sub(r"\s+", " ", re.sub(r"\(Contributed by.*", "", found.group(1), flags=re.DOTALL))
        comment = re.sub(r"[~`] ?", "", comment).strip()
        if len(comment) > 80:
            yield normalize(f"{comment}\n{found.group(2)}: {' '.join(found.group(3).split())}")
