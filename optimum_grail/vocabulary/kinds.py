"""The kinds of tokenizers, as values: what a token is built from, and what is left of one with fewer tokens."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from optimum_grail.errors import CheckpointError

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""Tokens that stand for one byte, in which SentencePiece spells what it has no token for."""


@dataclass(frozen=True)
class Kind(ABC):
    """The model of a tokenizer.

    Args:
        values: ``model`` of ``tokenizer.json``.
    """

    values: Mapping[str, Any]

    @property
    @abstractmethod
    def tokens(self) -> Mapping[str, int]:
        """Every token and its id."""

    @abstractmethod
    def symbols(self, token: str) -> tuple[str, ...]:
        """What ``token`` is spelled in: one symbol for each of its characters."""

    @abstractmethod
    def trimmed(self, ids: Mapping[int, int]) -> dict[str, Any]:
        """The values with the tokens of ``ids`` only, from old ids to new ones that keep their order."""

    def parts(self, token: str) -> frozenset[str]:
        """The tokens that ``token`` is built from."""
        return frozenset()

    def passed(self, word: str) -> frozenset[str]:
        """The tokens that were tried on ``word``, a word that has no tokens in the end."""
        return frozenset()

    @property
    def indispensable(self) -> frozenset[str]:
        """Tokens whose loss would change what others do."""
        unknown = self.values.get("unk_token")
        return frozenset({unknown}) if isinstance(unknown, str) and unknown in self.tokens else frozenset()

    @property
    def alphabet(self) -> frozenset[str]:
        """Tokens that stand for a byte or a single character; and, where bytes cannot stand in for them, those with a
        character that has no token of its own."""
        stays = set()
        for token in self.tokens:
            symbols = self.symbols(token)
            spelled = all(symbol in self.tokens for symbol in symbols)
            if len(symbols) < 2 or BYTE.fullmatch(token) or not (spelled or self._has_bytes):
                stays.add(token)
        return frozenset(stays)

    @property
    def _has_bytes(self) -> bool:
        return bool(self.values.get("byte_fallback"))


@dataclass(frozen=True)
class Bpe(Kind):
    """Byte-pair encoding: of all pairs of neighbours the one whose merge stands first is merged, again and again."""

    @property
    def tokens(self) -> Mapping[str, int]:
        """Every token and its id."""
        return self.values["vocab"]

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {(left, right): rank for rank, (left, right) in enumerate(self.values["merges"])}

    def symbols(self, token: str) -> tuple[str, ...]:
        """Its characters; the last one with the mark for the end of a word, if ``token`` has it."""
        suffix = self.values.get("end_of_word_suffix") or ""
        if suffix and token.endswith(suffix) and token != suffix:
            inner = token.removesuffix(suffix)
            return (*inner[:-1], inner[-1] + suffix)
        return tuple(token)

    def parts(self, token: str) -> frozenset[str]:
        """The result of every merge on the way from characters to ``token``; none where merges do not lead there.

        Within a longer word the way is the same, since merges across the borders of ``token`` did not come first.
        """
        symbols, met = list(self.symbols(token)), set[str]()
        while len(symbols) > 1:
            pairs = [(self._ranks.get(pair), index) for index, pair in enumerate(pairwise(symbols))]
            known = [(rank, index) for rank, index in pairs if rank is not None]
            if not known:
                return frozenset()
            _, index = min(known)
            symbols[index : index + 2] = [symbols[index] + symbols[index + 1]]
            met.add(symbols[index])
        return frozenset(met - {token})

    def trimmed(self, ids: Mapping[int, int]) -> dict[str, Any]:
        """The values with fewer tokens, and in their order the merges of which all three tokens are left."""
        vocab = {token: ids[number] for token, number in self.tokens.items() if number in ids}
        merges = [
            [left, right]
            for left, right in self.values["merges"]
            if left in vocab and right in vocab and left + right in vocab
        ]
        return {**self.values, "vocab": vocab, "merges": merges}


@dataclass(frozen=True)
class Unigram(Kind):
    """Tokens with scores: the split of the highest sum is taken."""

    @cached_property
    def tokens(self) -> Mapping[str, int]:
        """Every token and its id."""
        return {token: number for number, (token, _) in enumerate(self.values["vocab"])}

    def symbols(self, token: str) -> tuple[str, ...]:
        """Its characters."""
        return tuple(token)

    @property
    def indispensable(self) -> frozenset[str]:
        """The unknown token, and the token of the lowest score, from which the score of what is unknown is made."""
        lowest = min(self.values["vocab"], key=lambda pair: pair[1])[0]
        unknown = self.values.get("unk_id")
        return frozenset({lowest} if unknown is None else {lowest, self.values["vocab"][unknown][0]})

    def trimmed(self, ids: Mapping[int, int]) -> dict[str, Any]:
        """The values with fewer tokens, their scores as before."""
        vocab = [pair for number, pair in enumerate(self.values["vocab"]) if number in ids]
        unknown = self.values.get("unk_id")
        return {**self.values, "vocab": vocab, "unk_id": None if unknown is None else ids[unknown]}


@dataclass(frozen=True)
class WordPiece(Kind):
    """The longest token that a word begins with is taken, then the longest that its rest begins with."""

    @property
    def tokens(self) -> Mapping[str, int]:
        """Every token and its id."""
        return self.values["vocab"]

    @property
    def _prefix(self) -> str:
        return str(self.values["continuing_subword_prefix"])

    def symbols(self, token: str) -> tuple[str, ...]:
        """Its characters; those that do not begin a word with the mark of that."""
        inner = token.removeprefix(self._prefix) if token != self._prefix else token
        follows = inner != token
        return tuple((self._prefix if follows or index else "") + char for index, char in enumerate(inner))

    def passed(self, word: str) -> frozenset[str]:
        """The tokens that ``word`` begins with, up to where none fits; none of a word that is spelled to its end."""
        if len(word) > self.values["max_input_chars_per_word"]:
            return frozenset()
        steps = tuple(self._steps(word))
        reached = sum(len(step) for step in steps) - len(self._prefix) * (len(steps) - 1)
        return frozenset() if reached == len(word) else frozenset(steps)

    def _steps(self, word: str) -> Iterator[str]:
        start = 0
        while start < len(word):
            mark = self._prefix if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if mark + word[start:end] in self.tokens), None)
            if end is None:
                return
            yield mark + word[start:end]
            start = end

    def trimmed(self, ids: Mapping[int, int]) -> dict[str, Any]:
        """The values with fewer tokens."""
        return {**self.values, "vocab": {token: ids[id_] for token, id_ in self.tokens.items() if id_ in ids}}


KINDS: Mapping[str, type[Kind]] = {"BPE": Bpe, "Unigram": Unigram, "WordPiece": WordPiece}


def kind_of(values: Mapping[str, Any], where: str) -> Kind:
    """The model in ``tokenizer.json``.

    Args:
        values: what the file holds.
        where: what messages call the tokenizer.

    Raises:
        CheckpointError: of no known kind, or one that draws its splits at random.
    """
    model = values["model"]
    name = str(model.get("type"))
    if name not in KINDS:
        raise CheckpointError(
            f"The tokenizer of {where!r} is of the kind {name}; tokens can go from {', '.join(KINDS)}. Leave its "
            "vocabulary whole."
        )
    if model.get("dropout"):
        raise CheckpointError(
            f"The tokenizer of {where!r} leaves out merges at random (dropout {model['dropout']}), so that no text has "
            'certain tokens. Set "dropout" to null in its tokenizer.json first.'
        )
    if name == "BPE" and model.get("continuing_subword_prefix"):
        raise CheckpointError(
            f"The tokenizer of {where!r} is a BPE that marks what does not begin a word "
            f"({model['continuing_subword_prefix']!r}), which is not known here. Leave its vocabulary whole."
        )
    return KINDS[name](model)


def closure(kind: Kind, tokens: Sequence[str]) -> frozenset[str]:
    """Everything that ``tokens`` are built from."""
    return frozenset().union(*(kind.parts(token) for token in tokens))
