"""One source of calibration data, its weight and its options, spelled ``corpus.txt:split=train,weight=2``.

Nothing heavy is imported, because every ``optimum-cli`` call reads this file.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

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
class Writing:
    """How a causal language model writes its own text.

    Args:
        temperature: what the logits are divided by before a token is drawn, from 0.01 to 10; below 1 likely tokens
            become likelier.
        top_p: tokens are drawn among the likeliest that make up this share of the probability, in (0, 1]; 1: all.
        starts: what a row begins with: ``"random"``: an ordinary token, all equally likely; ``"frequent"``: a token, as
            likely as in the model's own text; ``"general"``: the first tokens of a random document of the general
            corpus; ``"chat"``: a short instruction in the tokenizer's chat template, which the model answers.
        loops: what happens to a row that goes round in circles: ``"keep"``, or ``"restart"``: a fresh start follows.

    Raises:
        ConfigError: a value outside its range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    starts: Literal["random", "frequent", "general", "chat"] = "random"
    loops: Literal["keep", "restart"] = "keep"

    def __post_init__(self) -> None:
        if not 0.01 <= self.temperature <= 10:
            raise ConfigError(f"temperature of self-written text is {self.temperature}; expected 0.01 to 10.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p of self-written text is {self.top_p}; expected a number in (0, 1].")


@dataclass(frozen=True)
class Fixed:
    """Of a source that has no options."""


Options: TypeAlias = Reading | Writing | Fixed


def is_general(name: str) -> bool:
    """Whether ``name`` is the corpus that comes with the package, or a genre of it."""
    return name == GENERAL or name.startswith(f"{GENERAL}/")


def _kind_of(name: str) -> type[Options]:
    """The options of the source ``name``."""
    if name == SELF:
        return Writing
    return Fixed if is_general(name) else Reading


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
    return Source.of(*split_word(word))


def split_word(word: str) -> tuple[str, dict[str, str]]:
    """The name in a word as :func:`parse_source` takes it, and the weight and options, which are not read yet.

    Raises:
        ConfigError: a key that is there twice, or without a value.
    """
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
    """The word that :func:`parse_source` reads as ``source``, with a weight of 1 if ``weighted``. A name that holds
    ``:key=`` and a value that holds ``,key=`` cannot be spelled so, only in a mapping."""
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
