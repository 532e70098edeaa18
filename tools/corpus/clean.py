"""Text to documents: cleaned, cut at paragraphs, without what occurred before."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

LEAST, MOST = 2_000, 20_000
"""Characters of a document."""

_BLOB = re.compile(r"\S{120,}")
_LICENCE = re.compile(r"copyright|licen[cs]e|all rights reserved|SPDX", re.IGNORECASE)
_COMMENT = re.compile(r"\A\s*(?:#![^\n]*\n)?\s*(/\*.*?\*/|<!--.*?-->|(?:(?://|#|--|;;|%)[^\n]*\n)+)", re.DOTALL)
_SHINGLE = 8
_REPEATED = 0.2


def normalize(text: str, *, code: bool = False) -> str:
    """Unix line ends, no control characters, no trailing blanks, at most one blank line (two in code), no blobs."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u00a0", " ").replace("\ufeff", "")
    text = "".join(
        char for char in text if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Co", "Cn", "Cs")
    )
    lines = [line.rstrip() for line in text.split("\n")]
    if code:
        lines = [line for line in lines if len(line) <= 400]
    lines = [line for line in lines if not has_blob(line)]
    blank = 3 if code else 2
    return re.sub(r"\n{%d,}" % (blank + 1), "\n" * blank, "\n".join(lines)).strip("\n")


def has_blob(line: str) -> bool:
    """Whether a line holds a run of 120 characters of the ASCII range without a blank: base64, hashes, minified code."""
    return any(run.isascii() for run in _BLOB.findall(line))


def strip_licence(text: str) -> str:
    """Source code without leading comments that speak of licences."""
    while (found := _COMMENT.match(text)) is not None and _LICENCE.search(found.group(1)):
        text = text[found.end() :]
    return text.strip("\n")


def pieces(text: str, size: int) -> list[str]:
    """Cut a text where paragraphs end, into parts of about ``size`` characters and never above 20,000."""
    size = min(size, MOST)
    parts: list[list[str]] = [[]]
    length = 0
    for paragraph in _paragraphs(text):
        if length + len(paragraph) > size and length >= LEAST:
            parts.append([])
            length = 0
        parts[-1].append(paragraph)
        length += len(paragraph) + 2
    joined = ["\n\n".join(part) for part in parts if part]
    return [part.strip("\n") for part in joined if len(part) <= MOST]


def _paragraphs(text: str) -> list[str]:
    blocks: list[str] = []
    for paragraph in re.split(r"\n\n", text):
        if len(paragraph) <= LEAST * 2:
            blocks.append(paragraph)
        elif "\n" in paragraph:
            blocks += paragraph.split("\n")
        else:
            blocks += re.findall(r".{1500,}?[.!?]['\")]* |.+", paragraph)
    return blocks


def without_paragraphs(text: str, known: frozenset[str]) -> str:
    """``text`` without the paragraphs in ``known``, such as those that a translation left in the original language."""
    return "\n\n".join(part for part in text.split("\n\n") if part not in known) if known else text


def join_short(texts: Iterable[str], size: int) -> list[str]:
    """Neighbouring short texts put together until they are about ``size`` characters long."""
    parts: list[str] = []
    current = ""
    for text in texts:
        if current and len(current) + len(text) > size and len(current) >= LEAST:
            parts.append(current)
            current = ""
        current = f"{current}\n\n{text}" if current else text
    return [*parts, current] if current else parts


class Seen:
    """What the corpus holds already: paragraphs, and runs of eight words."""

    def __init__(self) -> None:
        self._paragraphs: set[bytes] = set()
        self._shingles: set[int] = set()

    def fresh(self, text: str, *, code: bool = False) -> str | None:
        """``text`` without paragraphs that occurred before; ``None`` for a near duplicate or what became too short."""
        text = text if code else self._without_repeats(text)
        own = shingles(text)
        if len(text) < LEAST or not own or len(own & self._shingles) > _REPEATED * len(own):
            return None
        return text

    def add(self, text: str) -> None:
        """Remember a document that was taken."""
        self._paragraphs.update(_marks(text))
        self._shingles |= shingles(text)

    def _without_repeats(self, text: str) -> str:
        kept: list[str] = []
        here: set[bytes] = set()
        for paragraph in text.split("\n\n"):
            mark = _mark(paragraph)
            if len(paragraph) < 60 or (mark not in self._paragraphs and mark not in here):
                kept.append(paragraph)
                here.add(mark)
        return "\n\n".join(kept)


def words_of(text: str) -> list[str]:
    """Words in lower case; each character of scripts without blanks is one."""
    return re.findall(r"[぀-ヿ㐀-鿿가-힯]|[^\W぀-ヿ㐀-鿿가-힯]+", text.lower())


def shingles(text: str) -> set[int]:
    """Hashes of all runs of eight words; the same in every process."""
    words = words_of(text)
    runs = (" ".join(words[index : index + _SHINGLE]) for index in range(len(words) - _SHINGLE + 1))
    return {int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "big") for run in runs}


def _marks(text: str) -> set[bytes]:
    return {_mark(paragraph) for paragraph in text.split("\n\n") if len(paragraph) >= 60}


def _mark(paragraph: str) -> bytes:
    return hashlib.blake2b(" ".join(paragraph.split()).encode(), digest_size=8).digest()
