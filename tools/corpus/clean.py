"""Text to documents: cleaned, cut at paragraphs, without what occurred before."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

LEAST, MOST = 2_000, 20_000
"""Characters of a document."""

# control characters and those for private use; spelled out, since what is assigned differs between Python versions
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ue000-\uf8ff\ufffe\uffff\U000f0000-\U0010ffff]")
_BLOB = re.compile(r"\S{120,}")
_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", re.ASCII)
_OFFENSIVE = re.compile(r"\bnigg|\bfuck|\bcunt|\bfaggot", re.IGNORECASE)
_ENGLISH = re.compile(r"\b(?:the|of|and|is|to|that)\b")
_LICENCE = re.compile(r"copyright|licen[cs]e|all rights reserved|SPDX", re.IGNORECASE)
_COMMENT = re.compile(r"\A\s*(?:#![^\n]*\n)?\s*(/\*.*?\*/|<!--.*?-->|(?:(?://|#|--|;;|%)[^\n]*\n)+)", re.DOTALL)
_SENTENCES = re.compile(r".{1500,}?[.!?]['\")]* |.+")
_SHINGLE = 8
_REPEATED = 0.2


def normalize(text: str, *, code: bool = False) -> str:
    """Unix line ends, no control characters, no trailing blanks, at most one blank line (two in code), no blobs,
    no mail addresses."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u00a0", " ").replace("\ufeff", "")
    text = _ADDRESS.sub("user@example.org", _UNSEEN.sub("", text))
    lines = [line.rstrip() for line in text.split("\n")]
    if code:
        lines = [line for line in lines if len(line) <= 400]
    lines = [line for line in lines if not has_blob(line)]
    blank = "\n\n\n" if code else "\n\n"
    return re.sub(rf"{blank}\n+", blank, "\n".join(lines)).strip("\n")


def has_blob(line: str) -> bool:
    """Whether a line holds a run of 120 ASCII characters without a blank: base64, hashes, minified code."""
    return any(run.isascii() for run in _BLOB.findall(line))


def strip_licence(text: str) -> str:
    """Source code without leading comments that speak of licences."""
    while (found := _COMMENT.match(text)) is not None and _LICENCE.search(found.group(1)):
        text = text[found.end() :]
    return text.strip("\n")


def pieces(text: str, size: int) -> list[str]:
    """Cut a text into parts of about ``size`` characters and never above 20,000.

    The cuts are where paragraphs end; inside paragraphs above 4,000 characters also where lines or sentences do.
    """
    parts: list[str] = []
    for gap, block in _blocks(text):
        if not parts or (len(parts[-1]) + len(block) > min(size, MOST) and len(parts[-1]) >= LEAST):
            parts.append(block)
        else:
            parts[-1] += gap + block
    return [part.strip("\n") for part in parts if len(part) <= MOST]


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """What is not cut, each with what stands between it and the one before."""
    for paragraph in text.split("\n\n"):
        gap = "\n\n"
        for line in paragraph.split("\n") if len(paragraph) > 2 * LEAST else [paragraph]:
            for sentences in _SENTENCES.findall(line) if len(line) > 2 * LEAST else [line]:
                yield gap, sentences.strip() if gap == " " else sentences.rstrip()
                gap = " "
            gap = "\n"


def translated(text: str, original: frozenset[str]) -> str:
    """A translation without the paragraphs that it left in English: those of ``original``, and what reads like them."""
    kept = (part for part in text.split("\n\n") if part not in original and len(_ENGLISH.findall(part)) < 5)
    return "\n\n".join(kept)


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
        """``text`` without paragraphs that occurred before; ``None`` for a near duplicate, for what became too
        short, and where it has slurs."""
        if _OFFENSIVE.search(text):
            return None
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
