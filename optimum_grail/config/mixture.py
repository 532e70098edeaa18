"""Calibration data of several sources with weights, spelled ``general:2 self:1 corpus.txt:split=train``.

A word is ``NAME``, ``NAME:WEIGHT`` or ``NAME:key=value,...``. In a configuration the same is a mapping,
``{"general": 2, "self": 1}``: a list of strings is a data set of texts there. Nothing heavy is imported, because every
``optimum-cli`` call reads this file.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optimum_grail.config.source import (
    SELF,
    Source,
    is_general,
    is_misread,
    parse_source,
    spell_source,
    split_word,
)
from optimum_grail.errors import ConfigError, shorten


@dataclass(frozen=True)
class Mixture:
    """Sources with weights. Their order is that of their weights, then of their labels: how they were listed makes no
    difference.

    Args:
        sources: at least one; no two are the same.

    Raises:
        ConfigError: there is none, or two are the same.
    """

    sources: tuple[Source, ...]

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("A mixture has no sources. Name at least one, such as 'self'.")
        for label, times in Counter(source.label for source in self.sources).items():
            if times > 1:
                raise ConfigError(
                    f"The source {shorten(label, 200)} is there {times} times. Name it once, with a weight."
                )
        ordered = sorted(self.sources, key=lambda source: (-source.weight, source.label))
        object.__setattr__(self, "sources", tuple(ordered))

    @classmethod
    def of_words(cls, words: Iterable[str]) -> Mixture:
        """The mixture that words of the command line spell; a word that names an existing file is that file.

        Raises:
            ConfigError: as :func:`parse_source` and the class.
        """
        return cls(tuple(Source(word) if _is_path(word) else parse_source(word) for word in words))

    @classmethod
    def of_mapping(cls, values: Mapping[str, Any]) -> Mixture:
        """The mixture that a mapping from sources to weights, or to a mapping of options, stands for.

        A key is ``NAME`` or ``NAME:key=value,...``; with a mapping as its value it is the name as it stands.

        Raises:
            ConfigError: as :func:`parse_source` and the class; a key with a weight.
        """
        return cls(tuple(_of_item(key, value) for key, value in values.items()))

    def to_mapping(self) -> dict[str, Any]:
        """What :meth:`of_mapping` reads as this mixture: JSON values."""
        found: dict[str, Any] = {}
        for source in self.sources:
            weight = int(source.weight) if source.weight == int(source.weight) else source.weight
            spelled = split_word(source.label) == (source.name, {key: str(v) for key, v in source.chosen.items()})
            found |= {source.label: weight} if spelled else {source.name: {"weight": weight, **source.chosen}}
        return found

    def spelled(self) -> str:
        """For people: ``general:2 + self:1``."""
        return " + ".join(spell_source(source, weighted=len(self.sources) > 1) for source in self.sources)


def _of_item(key: str, value: Any) -> Source:
    if isinstance(value, Mapping):
        return Source.of(key, value)
    name, options = split_word(key)
    if "weight" in options:
        raise ConfigError(
            f"The key {shorten(key, 200)} of a mixture holds a weight. Give it as the value, {{{shorten(name)}: 2}}; "
            f"what is called so itself is spelled {{{shorten(key)}: {{'weight': 2}}}}."
        )
    return Source.of(name, {**options, "weight": value})


def is_mapping(value: Any) -> bool:
    """Whether ``value`` is a mapping that can only be a mixture; a ``DatasetDict`` is one from splits to rows."""
    plain = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    return plain and all(isinstance(item, str | float | int | Mapping) or item is None for item in value.values())


def mixture_of(value: Any) -> Mixture | None:
    """The mixture that a ``dataset`` of a configuration asks for; ``None`` for one data set read as it is.

    Raises:
        ConfigError: a wrong mixture; a list of strings that look like sources, where a list is a data set of texts.
    """
    if isinstance(value, list | tuple):
        _refuse_words(value)
    elif is_mapping(value):
        return Mixture.of_mapping(value)
    elif isinstance(value, str) and not _is_path(value):
        return Mixture((parse_source(value),)) if is_general(value) or is_misread(value) else None
    return None


def _refuse_words(words: Sequence[Any]) -> None:
    """A list of texts is data; words of which some are spelled like sources were meant for a mixture."""
    if not all(isinstance(word, str) and not re.search(r"\s", word) for word in words):
        return
    if not any(word == SELF or is_general(word) or is_misread(word) for word in words):
        return
    raise ConfigError(
        f"{shorten(list(words), 200)} is a list of strings, which is a data set of these texts, but they look like "
        "sources of a mixture. Spell a mixture {'general': 2, 'self': 1}, and such texts [{'text': 'general:2'}]."
    )


def _is_path(word: str) -> bool:
    """Whether a file or folder has this name; ``self`` and ``general`` are no paths."""
    return word != SELF and not is_general(word) and os.path.exists(os.path.expanduser(word))
