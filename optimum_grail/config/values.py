"""What a configuration value may be: the :class:`Option` type, checks of single values, and the spelling of methods.

Nothing heavy is imported, because every ``optimum-cli`` call reads this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from optimum_grail.config.presets import get_preset
from optimum_grail.errors import ConfigError, shorten

Kind = Literal[
    "preset", "fraction", "amount", "share", "count", "seed", "choice", "method", "text", "data", "switch", "flag"
]
"""What a value is: ``fraction`` in (0, 1); ``amount`` "auto" or >= 0; ``share`` "auto" or in [0, 1]; ``count`` >= 1;
``seed`` >= 0; ``method`` a name with options; ``data`` a source or a live data set; ``switch`` true, false or unset;
``flag`` true or false."""


LARGEST = 2**63 - 1
"""Whole numbers go no further: neither tensors nor random generators take larger ones."""


@dataclass(frozen=True)
class Option:
    """One configuration field.

    Args:
        name: name of the field; the flag is the same with dashes.
        kind: what a value is, see :data:`Kind`.
        default: its default; ``None`` means "as the preset or the method says", or "not given".
        help: one sentence for people.
        accepted: the accepted range, as messages and ``--help`` print it.
        group: heading under which ``--help`` lists it.
        choices: the accepted words of a ``choice``.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    accepted: str
    group: str
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The command line's spelling, for example ``--ffn-sparsity``."""
        return "--" + self.name.replace("_", "-")

    def check(self, value: Any) -> Any:
        """Return ``value`` in its normal form (numbers as Python numbers); ``None`` passes wherever it is the default.

        Raises:
            ConfigError: the value is outside the accepted range; the message names field, value and range.
            UnknownNameError: no preset of that name.
        """
        if value is None and self.default is None:
            return None
        return _CHECKS[self.kind](self, value)

    def parse(self, text: str) -> Any:
        """Turn a command line word into a checked value.

        Raises:
            ConfigError: as :meth:`check`.
        """
        return self.check(_PARSERS.get(self.kind, str)(text))

    def refuse(self, value: Any) -> ConfigError:
        """The error for a value outside the accepted range."""
        limit = " and below 2**63" if isinstance(value, Integral) and int(value) > LARGEST else ""
        return ConfigError(f"{self.name} is {shorten(value)}; expected {self.accepted}{limit}.")


def _number(text: str) -> Any:
    """The number that ``text`` writes, else ``text`` itself, which the check then refuses."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _is_real(value: Any) -> bool:
    """Whether ``value`` is a number that a float can hold."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _fraction(option: Option, value: Any) -> float:
    if _is_real(value) and 0 < value < 1:
        return float(value)
    raise option.refuse(value)


def _amount(option: Option, value: Any) -> float | str:
    if value == "auto" or (_is_real(value) and value >= 0):
        return "auto" if value == "auto" else float(value)
    raise option.refuse(value)


def _share(option: Option, value: Any) -> float | str:
    if value == "auto" or (_is_real(value) and 0 <= value <= 1):
        return "auto" if value == "auto" else float(value)
    raise option.refuse(value)


def _whole(least: int) -> Callable[[Option, Any], int]:
    def check(option: Option, value: Any) -> int:
        """The whole number, or the refusal of the option."""
        if isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= LARGEST:
            return int(value)
        raise option.refuse(value)

    return check


def _choice(option: Option, value: Any) -> str:
    if isinstance(value, str) and value in option.choices:
        return value
    raise option.refuse(value)


def _preset(option: Option, value: Any) -> str:
    if isinstance(value, str):
        return get_preset(value).name
    raise option.refuse(value)


def _boolean(option: Option, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise option.refuse(value)


def _text(option: Option, value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise option.refuse(value)


def _data(option: Option, value: Any) -> Any:
    if isinstance(value, bool | Real) or (isinstance(value, str) and not value.strip()):
        raise option.refuse(value)
    return value


def _method(option: Option, value: Any) -> str | dict[str, Any]:
    try:
        parse_method(value)
    except ConfigError as error:
        raise ConfigError(f"{option.name}: {error}") from None
    return dict(value) if isinstance(value, Mapping) else str(value)


_CHECKS: Mapping[str, Callable[[Option, Any], Any]] = MappingProxyType(
    {
        "preset": _preset,
        "fraction": _fraction,
        "amount": _amount,
        "share": _share,
        "count": _whole(1),
        "seed": _whole(0),
        "choice": _choice,
        "method": _method,
        "text": _text,
        "data": _data,
        "switch": _boolean,
        "flag": _boolean,
    }
)

_PARSERS: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {"fraction": _number, "amount": _number, "share": _number, "count": _number, "seed": _number}
)


def parse_method(value: Any) -> tuple[str, dict[str, Any]]:
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


def _spell(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def coerce(value: Any, hint: Any) -> Any:
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


def describe(hint: Any) -> str:
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


def _eagerness(hint: Any) -> int:
    order = (type(None), bool, int, float, str)
    return order.index(hint) if hint in order else -1


def _read(value: Any, hint: Any) -> tuple[bool, Any]:
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
        number = _number(value) if text else value
        accepted = isinstance(number, Integral if hint is int else Real) and not isinstance(number, bool)
        accepted = accepted and not (isinstance(number, Integral) and abs(int(number)) > LARGEST)
        return accepted, hint(number) if accepted else None
    return hint is not str or isinstance(value, str), value


def describe_data(value: Any) -> str:
    """A short description of a live data set, for example ``"list of 128 strings"``."""
    kind = type(value).__name__
    if isinstance(value, list | tuple):
        item = type(value[0]).__name__ if value else "item"
        return f"{kind} of {len(value)} {'string' if item == 'str' else item}s"
    try:
        rows = f" of {len(value)} rows"
    except TypeError:
        rows = ""
    columns = getattr(value, "column_names", None)
    return f"{kind}{rows}" + (f" with columns {', '.join(map(str, columns))}" if columns else "")
