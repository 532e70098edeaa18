"""How values are spelled: methods with their options, words that stand for numbers, live data sets in words.

Nothing heavy is imported, because every ``optimum-cli`` call reads this file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sized
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, TypeGuard, Union, get_args, get_origin

from optimum_grail.errors import ConfigError, shorten

LARGEST = 2**63 - 1
"""Whole numbers go no further: neither tensors nor random generators take larger ones."""

DESCRIBED = re.compile(r"\w+ of \d+ \w+s\b.*")
"""What :func:`describe_data` says of live data with a length."""


def number(text: str) -> int | float | str:
    """The number that ``text`` writes, else ``text`` itself, which the check then refuses."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def is_number(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a real number, infinite or nan included; a whole one has to fit into 64 bits."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and (not isinstance(value, Integral) or abs(int(value)) <= LARGEST)


def parse_method(value: object) -> tuple[str, dict[str, Any]]:
    """Split ``"NAME"``, ``"NAME:k=v,..."`` or ``{"name": NAME, k: v, ...}`` into the name and its options.

    Values of a string stay strings: their types are the method's business.

    Raises:
        ConfigError: the value has another form.
    """
    if isinstance(value, Mapping):
        options = dict(value)
        name = options.pop("name", None)
        if isinstance(name, str) and name and all(isinstance(key, str) for key in options):
            return name, options
    elif isinstance(value, str):
        name, colon, rest = value.partition(":")
        pairs = [pair.partition("=") for pair in rest.split(",")] if colon else []
        keys = [key.strip() for key, _, _ in pairs]
        if (
            name.strip()
            and len(set(keys)) == len(keys)
            and all(key and text.strip() for key, (_, _, text) in zip(keys, pairs, strict=True))
        ):
            return name.strip(), {key: text.strip() for key, (_, _, text) in zip(keys, pairs, strict=True)}
    raise ConfigError(
        f"{shorten(value)} is not a method; expected NAME, NAME:key=value,key=value or a dict with the key 'name', "
        "for example 'magnitude:p=2'."
    )


def format_method(name: str, options: Mapping[str, Any]) -> str | dict[str, Any]:
    """Write a method the way :func:`parse_method` reads it: a string where that says it all, else a dict."""
    if all(isinstance(value, str | int | float) and "," not in str(value) for value in options.values()):
        pairs = ",".join(f"{key}={_spell(value)}" for key, value in options.items())
        return f"{name}:{pairs}" if pairs else name
    return {"name": name, **options}


def _spell(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def coerce(value: object, hint: object) -> Any:
    """Convert ``value`` to the type that ``hint`` (an annotation) names; a string is read as that type.

    Known: ``Literal``, ``None``, ``bool``, ``int``, ``float``, ``str`` and unions of them, tried in that order. Values
    under any other hint pass as they are.

    Raises:
        ConfigError: the value is none of these; the message ends with what is accepted.
    """
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for member in sorted(members, key=_eagerness):
        found, result = _read(value, member)
        if found:
            return result
    raise ConfigError(f"{shorten(value)}; expected {describe(hint)}.")


def describe(hint: object) -> str:
    """What an annotation accepts, in words."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(describe(member) for member in sorted(get_args(hint), key=_eagerness))
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    words: dict[Any, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        type(None): "none",
    }
    return words.get(hint, str(hint))


def _eagerness(hint: object) -> int:
    order = (type(None), bool, int, float, str)
    return order.index(hint) if hint in order else -1


def _read(value: object, hint: Any) -> tuple[bool, Any]:
    """Whether ``value`` is of the one type ``hint``, and what it is then."""
    text = value.strip().lower() if isinstance(value, str) else None
    if get_origin(hint) is Literal:
        words = {str(word): word for word in get_args(hint)}
        word = value if isinstance(value, str) else shorten(value)
        return word in words, words.get(word)
    if hint is type(None):
        return value is None or text == "none", None
    if hint is bool:
        return isinstance(value, bool) or text in ("true", "false"), text == "true" if text else value
    if hint in (int, float):
        found = number(value) if isinstance(value, str) and text else value
        accepted = is_number(found) if hint is float else is_number(found) and isinstance(found, Integral)
        return accepted, hint(found) if accepted else None
    return hint is not str or isinstance(value, str), value


def describe_data(value: object) -> str:
    """A short description of a live data set, for example ``"list of 128 strings"``."""
    kind = type(value).__name__
    if isinstance(value, list | tuple):
        item = type(value[0]).__name__ if value else "item"
        return f"{kind} of {len(value)} {'string' if item == 'str' else item}s"
    try:
        rows = f" of {len(value)} rows" if isinstance(value, Sized) else ""
    except TypeError:  # has a length by its class only, such as a loader of a stream
        rows = ""
    columns = getattr(value, "column_names", None)
    return f"{kind}{rows}" + (f" with columns {', '.join(map(str, columns))}" if columns else "")


def plain(value: object) -> Any:
    """A JSON value: live data sets are described, tuples and mappings copied."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return json.loads(json.dumps(value)) if type(value) is dict else describe_data(value)
