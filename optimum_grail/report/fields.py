"""What may stand in a report, as types, and reading a value of such a type from JSON.

A report file comes with a checkpoint and may have been written by anyone. What it says lands in tables, in Markdown and
in code that people run, so every field is read by its type: names that become code are names, numbers are numbers.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, NotRequired, TypedDict, Union, get_args, get_origin, is_typeddict

from optimum_grail.errors import CheckpointError, shorten

DEPTH = 30
"""How deep values whose type is not known may be nested."""
LETTERS = 20_000
"""Letters of a text."""
_WORDS: Mapping[str, float] = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


@dataclass(frozen=True)
class Spelling:
    """What a text must look like.

    Args:
        pattern: a regular expression that all of it matches.
        meaning: for messages.
    """

    pattern: str
    meaning: str


@dataclass(frozen=True)
class Shape:
    """The keys of a mapping, as a ``TypedDict``; other keys are kept.

    Args:
        kind: the ``TypedDict``.
        optional: whether an empty mapping will do.
    """

    kind: type
    optional: bool = False


class _Infinite:
    """Marks numbers that need not be finite: a diverged model has an infinite perplexity."""


Measured = Annotated[float, _Infinite]
Identifier = Annotated[str, Spelling(r"([A-Za-z_]\w*)?", "a name of Python")]
Word = Annotated[str, Spelling(r"[\w .:+-]{0,80}", "a word")]
HubId = Annotated[str, Spelling(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", "an id of the Hub")]
Revision = Annotated[str, Spelling(r"[\w./-]{0,200}", "a commit, branch or tag")]
Digest = Annotated[str, Spelling(r"[0-9a-f]{0,128}", "a hash in hexadecimal digits")]
Command = Annotated[str, Spelling(r"(?s)((\S*/)?optimum-cli(\s.*)?)?", "a command line of optimum-cli")]


class InputRow(TypedDict):
    """One input of a forward pass."""

    shape: list[int]
    dtype: Word


class Pass(TypedDict):
    """Dense and compressed at one batch size: seconds and their spread, or bytes."""

    batch: int
    dense: float
    compressed: float
    dense_spread: NotRequired[float]
    compressed_spread: NotRequired[float]


class ForwardPass(TypedDict):
    """What :func:`optimum_grail.evaluation.stopwatch.compare_forward` gives."""

    inputs: Mapping[Identifier, InputRow]
    outputs: Mapping[Identifier, list[int]]
    dtype: Word
    device: Word
    latency: NotRequired[list[Pass]]
    memory: NotRequired[list[Pass]]


class Result(TypedDict):
    """One metric on one data set: ``source`` is what it was read from where it has another name, ``corpus`` whether it
    is of the calibration data's corpus, ``perturbation`` what was done to the inputs, ``agreement`` how far the
    compressed model answers as the dense one."""

    metric: str
    dataset: NotRequired[str | None]
    dense: NotRequired[Measured | None]
    plain: NotRequired[Measured | None]
    compressed: NotRequired[Measured | None]
    protocol: NotRequired[str | None]
    source: NotRequired[str | None]
    corpus: NotRequired[Word | None]
    perturbation: NotRequired[Word | None]
    agreement: NotRequired[Mapping[Word, Measured]]


class Before(TypedDict):
    """One metric before and after a recovery."""

    metric: str
    dataset: str
    dense: Measured
    before: Measured
    after: Measured


class Point(TypedDict):
    """The divergence from the dense model on held-out samples after so many steps of a recovery."""

    step: int
    kl: Measured


class Recovery(TypedDict):
    """A short training after the compression."""

    steps: int
    rank: int
    batch_size: int
    dataset: str
    kl_before: Measured
    kl_after: Measured
    weights: NotRequired[Word]
    curve: NotRequired[tuple[Point, ...]]
    evaluation: NotRequired[Annotated[Mapping[str, Any], Shape(Before)]]


class Derived(TypedDict):
    """A model made from this one."""

    name: str
    metric: str
    dataset: str
    value: Measured
    bytes: int
    protocol: NotRequired[str | None]
    seconds: NotRequired[Mapping[str, float]]


class Hardware(TypedDict, total=False):
    """The machine."""

    processor: str
    cores: int
    memory: int
    device: Word


def read(value: object, hint: Any, where: str) -> Any:
    """``value``, which comes from JSON, as the type ``hint``: lists become tuples where it says so.

    Args:
        value: what the file holds.
        hint: an annotation: of a dataclass's field, or one of this file.
        where: what to call it in messages.

    Raises:
        CheckpointError: it is something else; the message names the place and what was expected.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(value, arguments[0], arguments[1], where)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        (hint,) = (member for member in arguments if member is not NoneType)
        return read(value, hint, where)
    if hint is Any:
        return _anything(value, where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint(**_keys(value, hint, where, strict=True))
    if is_typeddict(hint):
        return _keys(value, hint, where)
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise _refused(where, value, "a list")
        return origin(read(item, arguments[0], f"{where}[{index}]") for index, item in enumerate(value))
    if origin is Mapping:
        return {
            read(key, arguments[0], f"a key of {where}"): read(item, arguments[1], f"{where}[{shorten(key, 40)}]")
            for key, item in _mapping(value, where).items()
        }
    return _plain(value, hint, where)


def _annotated(value: object, hint: object, note: object, where: str) -> Any:
    if note is _Infinite and isinstance(value, str | float):
        value = _WORDS.get(str(value), value)
        return value if isinstance(value, float) else read(value, hint, where)
    if isinstance(note, Shape):
        return {} if note.optional and value == {} else read(value, note.kind, where)
    found = read(value, hint, where)
    if isinstance(note, Spelling) and not re.fullmatch(note.pattern, found):
        raise _refused(where, value, note.meaning)
    return found


def _plain(value: object, hint: type, where: str) -> Any:
    """A text, a whole number, a finite number, or true or false."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, int | float) and not -(2**63) <= value < 2**63:  # refuses what is not a number, too
        raise _refused(where, value, "a finite number below 2**63")
    sound = {
        str: isinstance(value, str) and len(value) <= LETTERS,
        bool: isinstance(value, bool),
        int: number and isinstance(value, int),
        float: number,
    }
    if not sound[hint]:
        words = {str: f"a text of at most {LETTERS:,} letters", bool: "true or false", int: "a whole number"}
        raise _refused(where, value, words.get(hint, "a number"))
    return value


def _anything(value: object, where: str, depth: int = 0) -> Any:
    """Any value of JSON that is not nested too deep; the words for infinite numbers become numbers."""
    if depth > DEPTH:
        raise _refused(where, value, f"values nested at most {DEPTH} deep")
    if isinstance(value, Mapping):
        return {str(key): _anything(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_anything(item, where, depth + 1) for item in value]
    if isinstance(value, float) or value is None:
        return value
    return _WORDS.get(value, value) if isinstance(value, str) else _plain(value, type(value), where)


def _keys(value: object, kind: object, where: str, strict: bool = False) -> dict[str, Any]:
    """The known keys by their types, and the others as they are or, if ``strict``, refused."""
    found, hints = _mapping(value, where), _hints(kind)
    if missing := [key for key, (_, required) in hints.items() if required and key not in found]:
        raise CheckpointError(f"This is no report of a compression: {where} lacks {missing[0]!r}.")
    if strict and (unknown := sorted(set(found) - set(hints))):
        raise CheckpointError(f"This is no report of a compression: {where} has no field {shorten(unknown[0])}.")
    return {
        key: read(item, hints[key][0] if key in hints else Any, f"{where}[{shorten(key, 40)}]")
        for key, item in found.items()
    }


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _refused(where, value, "a dictionary")
    return value


@cache
def _hints(kind: Any) -> dict[str, tuple[Any, bool]]:
    """The annotations of a dataclass or ``TypedDict``, and whether the key must be there."""
    hints = typing.get_type_hints(kind, include_extras=True)
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        needed = {f.name for f in dataclasses.fields(kind) if f.default is missing and f.default_factory is missing}
        return {name: (hint, name in needed) for name, hint in hints.items()}
    return {
        name: (get_args(hint)[0], False) if get_origin(hint) is NotRequired else (hint, kind.__total__)
        for name, hint in hints.items()
    }


def _refused(where: str, value: object, expected: str) -> CheckpointError:
    return CheckpointError(
        f"This is no report of a compression: {where} is {shorten(value)}; expected {expected}. Restore the file."
    )


def finite(value: object) -> Any:
    """JSON has no infinities: write them as words; mappings and tuples become dicts and lists."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
