"""Calibration data of several sources with weights, spelled ``general:2 self:1 corpus.txt:split=train``.

A word is ``NAME``, ``NAME:WEIGHT`` or ``NAME:key=value,...``. In a configuration the same is a mapping,
``{"general": 2, "self": 1}``: a list of strings is a data set of texts there. Nothing heavy is imported, because every
``optimum-cli`` call reads this file.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import typing
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from optimum_grail.config.spelling import coerce, is_number
from optimum_grail.errors import ConfigError, did_you_mean, shorten

SELF = "self"
"""Name of the text that a causal language model writes itself."""
GENERAL = "general"
"""Name of the corpus that comes with the package; ``general/GENRE`` is one genre of it."""

_KEY = r"[A-Za-z_]\w*\s*="
_OPTIONS = re.compile(rf":(?={_KEY})")
_PAIRS = re.compile(rf",(?=\s*{_KEY})")
_WEIGHT = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*$")


@dataclass(frozen=True)
class Reading:
    """How the rows of a file, a folder or a Hub data set are read; ``None``: as the configuration's fields say.

    Args:
        config_name: configuration of a Hub data set.
        split: its split; slices such as ``train[:1000]`` work too.
        text_column: column that holds the text.
        image_column: column that holds the images.
    """

    config_name: str | None = None
    split: str | None = None
    text_column: str | None = None
    image_column: str | None = None


@dataclass(frozen=True)
class Fixed:
    """Of a source that has no options."""


Options: TypeAlias = Reading | Fixed


def _kind_of(name: str) -> type[Options]:
    """The options of the source ``name``."""
    return Fixed if name in (SELF, GENERAL) or name.startswith(f"{GENERAL}/") else Reading


@dataclass(frozen=True)
class Source:
    """One source of a mixture.

    Args:
        name: a path, a Hub id, ``"self"``, ``"general"`` or ``"general/GENRE"``.
        weight: its share of the samples is its part of the sum of all weights; positive.
        options: of the kind that the source has.

    Raises:
        ConfigError: the name is blank, the weight is not positive, or the options are of another kind of source.
    """

    name: str
    weight: float = 1.0
    options: Options = field(default_factory=Reading)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ConfigError(
                f"A source is named {shorten(self.name)}; expected a path, a Hub id, 'self' or 'general'."
            )
        if not is_number(self.weight) or not 0 < self.weight < math.inf:
            raise ConfigError(
                f"The weight of the source {shorten(self.name)} is {shorten(self.weight)}; expected a positive number, "
                "such as 2 or 0.5. Leave the source out to give it no weight."
            )
        if not isinstance(self.options, _kind_of(self.name)):
            raise ConfigError(f"The source {shorten(self.name)} has no options of the kind {self.options}.")

    @classmethod
    def of(cls, name: str, values: Mapping[str, Any]) -> Source:
        """The source ``name`` with ``values``: its weight and options, words or values of their types.

        Raises:
            ConfigError: it has no such option, or a value is of another type; the message names the nearest.
        """
        kind = _kind_of(name)
        hints = {"weight": float, **typing.get_type_hints(kind)}
        options: dict[str, Any] = {}
        for key, value in values.items():
            if key not in hints:
                raise ConfigError(
                    f"The source {shorten(name)} has no option {key!r}.{did_you_mean(key, hints)} It has: "
                    f"{', '.join(hints)}."
                )
            try:
                options[key] = coerce(value, hints[key])
            except ConfigError as error:
                raise ConfigError(f"{key} of the source {shorten(name)} is {error}") from None
        return cls(name, options.pop("weight", 1.0), kind(**options))

    @property
    def chosen(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        mine, default = dataclasses.asdict(self.options), dataclasses.asdict(type(self.options)())
        return {key: value for key, value in mine.items() if value != default[key]}

    @property
    def label(self) -> str:
        """Name and options as a word without the weight; what tells two sources of one mixture apart."""
        pairs = ",".join(f"{key}={value}" for key, value in self.chosen.items())
        return f"{self.name}:{pairs}" if pairs else self.name


def parse_source(word: str) -> Source:
    """Read ``NAME``, ``NAME:WEIGHT`` or ``NAME:key=value,...``.

    Other colons belong to the name (``C:\\corpus.txt``, ``hf://datasets/owner/name``). A name that ends like a weight
    is spelled with its weight as an option: ``notes:2:weight=1``.

    Raises:
        ConfigError: as :meth:`Source.of`; or a key that is there twice, or without a value.
    """
    return Source.of(*_split(word))


def _split(word: str) -> tuple[str, dict[str, str]]:
    if found := _OPTIONS.search(word):
        pairs = [pair.partition("=") for pair in _PAIRS.split(word[found.end() :])]
        values = {key.strip(): value.strip() for key, _, value in pairs}
        if len(values) < len(pairs) or not all(values.values()):
            raise ConfigError(
                f"{shorten(word, 200)} is no source: expected NAME:key=value,key=value, each key once and with a value."
            )
        return word[: found.start()].strip(), values
    if found := _WEIGHT.search(word):
        return word[: found.start()].strip(), {"weight": found[1]}
    return word.strip(), {}


def spell_source(source: Source, weighted: bool = False) -> str:
    """The word that :func:`parse_source` reads as ``source``, with a weight of 1 if ``weighted``; values that hold
    ``,key=`` cannot be spelled so."""
    weight = _spell(source.weight)
    if not source.chosen and not is_misread(source.name):
        return f"{source.name}:{weight}" if weighted or weight != "1" else source.name
    told = {} if source.chosen and weight == "1" and not weighted else {"weight": weight}
    return f"{source.name}:{','.join(f'{key}={value}' for key, value in {**told, **source.chosen}.items())}"


def _spell(weight: float) -> str:
    return str(int(weight)) if weight == int(weight) and weight < 2**53 else repr(weight)


def is_misread(name: str) -> bool:
    """Whether :func:`parse_source` would take a part of ``name`` for a weight or options."""
    return bool(_OPTIONS.search(name) or _WEIGHT.search(name))


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
            plain = not is_misread(source.name) and not any(_PAIRS.search(str(v)) for v in source.chosen.values())
            found |= {source.label: weight} if plain else {source.name: {"weight": weight, **source.chosen}}
        return found

    def spelled(self) -> str:
        """For people: ``general:2 + self:1``."""
        return " + ".join(spell_source(source, weighted=len(self.sources) > 1) for source in self.sources)


def _of_item(key: str, value: Any) -> Source:
    if isinstance(value, Mapping):
        return Source.of(key, value)
    name, options = _split(key)
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
        general = value == GENERAL or value.startswith(f"{GENERAL}/")
        return Mixture((parse_source(value),)) if general or is_misread(value) else None
    return None


def _refuse_words(words: Sequence[Any]) -> None:
    """A list of texts is data; a list of what the command line takes was meant for a mixture."""
    if not words or not all(isinstance(word, str) and (is_misread(word) or word in (SELF, GENERAL)) for word in words):
        return
    raise ConfigError(
        f"{shorten(list(words), 200)} is a list of strings, which is a data set of these texts, but they look like "
        "sources of a mixture. Spell a mixture {'general': 2, 'self': 1}, and such texts [{'text': 'general:2'}]."
    )


def _is_path(word: str) -> bool:
    """Whether a file or folder has this name; ``self`` and ``general`` are no paths."""
    return word not in (SELF, GENERAL) and os.path.exists(os.path.expanduser(word))
