"""What a configuration value may be: the :class:`Option` type, and checks of single values.

Nothing heavy is imported, because every ``optimum-cli`` call reads this file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, Literal, TypeGuard

from optimum_grail.config.mixture import mixture_of
from optimum_grail.config.presets import get_preset
from optimum_grail.config.spelling import LARGEST, is_number, number, parse_method
from optimum_grail.core.ratio import read_ratio
from optimum_grail.errors import ConfigError, shorten

ValueKind = Literal[
    "preset",
    "fraction",
    "amount",
    "share",
    "count",
    "seed",
    "parameters",
    "bytes",
    "patterns",
    "choice",
    "method",
    "ratio",
    "text",
    "data",
    "switch",
    "flag",
]
"""What a value is: ``fraction`` in (0, 1); ``amount`` "auto" or >= 0; ``share`` "auto" or in [0, 1]; ``count`` >= 1;
``seed`` >= 0; ``parameters`` and ``bytes`` whole numbers >= 1, or words such as 100M and 60MB; ``patterns`` one or
several, kept joined by slashes; ``method`` a name with options; ``ratio`` N:M; ``data`` a source or a live data set;
``switch`` true, false or unset; ``flag`` true or false."""
THOUSANDS = ("", "k", "m", "g", "t")
SUFFIXES: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "parameters": {**{unit: 1000**power for power, unit in enumerate(THOUSANDS)}, "b": 10**9},
        "bytes": {
            **{unit + byte: 1000**power for power, unit in enumerate(THOUSANDS) for byte in ("", "b")},
            **{unit + "ib": 1024**power for power, unit in enumerate(THOUSANDS) if unit},
        },
    }
)
"""What the letters behind a size stand for, capitals aside."""


@dataclass(frozen=True)
class Option:
    """One configuration field.

    Args:
        name: name of the field; the flag is the same with dashes.
        kind: what a value is, see :data:`ValueKind`.
        default: its default; ``None`` means "as the preset or the method says", or "not given".
        help: one sentence for people.
        accepted: the accepted range, as messages and ``--help`` print it.
        group: heading under which ``--help`` lists it.
        choices: the accepted words of a ``choice``.
    """

    name: str
    kind: ValueKind
    default: Any
    help: str
    accepted: str
    group: str
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The command line's spelling, for example ``--ffn-sparsity``."""
        return "--" + self.name.replace("_", "-")

    def check(self, value: object) -> Any:
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

    def refuse(self, value: object) -> ConfigError:
        """The error for a value outside the accepted range."""
        limit = " and below 2**63" if isinstance(value, Integral) and int(value) > LARGEST else ""
        return ConfigError(f"{self.name} is {shorten(value)}; expected {self.accepted}{limit}.")


def _is_real(value: object) -> TypeGuard[Real]:
    return is_number(value) and math.isfinite(value)


def _fraction(option: Option, value: object) -> float:
    if _is_real(value) and 0 < float(value) < 1:
        return float(value)
    raise option.refuse(value)


def _amount(option: Option, value: object) -> float | str:
    if value == "auto":
        return "auto"
    if _is_real(value) and float(value) >= 0:
        return float(value)
    raise option.refuse(value)


def _share(option: Option, value: object) -> float | str:
    if value == "auto":
        return "auto"
    if _is_real(value) and 0 <= float(value) <= 1:
        return float(value)
    raise option.refuse(value)


def _whole(least: int) -> Callable[[Option, Any], int]:
    def check(option: Option, value: object) -> int:
        """The whole number, or the refusal of the option."""
        if is_number(value) and isinstance(value, Integral) and int(value) >= least:
            return int(value)
        raise option.refuse(value)

    return check


def _size(option: Option, value: object) -> int:
    """A whole number, or what a word such as ``"1.5M"`` or ``"60 MB"`` stands for."""
    if isinstance(value, str) and (found := re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?)\s*([a-zA-Z]*)", value.strip())):
        factor = SUFFIXES[option.kind].get(found[2].lower())
        value = value if factor is None else int(Decimal(found[1]) * factor)
    return _whole(1)(option, value)


def _patterns(option: Option, value: object) -> str:
    """Patterns joined by slashes, as the allocations take them."""
    words = value if isinstance(value, list | tuple) else [value]
    whole = all(isinstance(word, str) or (isinstance(word, int) and is_number(word)) for word in words)
    patterns = [part.strip() for word in words for part in str(word).split("/")] if whole else []
    if not patterns or not all(patterns):
        raise option.refuse(value)
    return "/".join(patterns)


def _choice(option: Option, value: object) -> str:
    if isinstance(value, str) and value in option.choices:
        return value
    raise option.refuse(value)


def _preset(option: Option, value: object) -> str:
    if isinstance(value, str):
        return get_preset(value).name
    raise option.refuse(value)


def _boolean(option: Option, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise option.refuse(value)


def _ratio(option: Option, value: object) -> str:
    return "{}:{}".format(*read_ratio(value))


def _text(option: Option, value: object) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise option.refuse(value)


def _data(option: Option, value: object) -> Any:
    if isinstance(value, bool | Real) or (isinstance(value, str) and not value.strip()):
        raise option.refuse(value)
    try:
        mixture = mixture_of(value)
    except ConfigError as error:
        raise ConfigError(f"{option.name}: {error}") from None
    return value if mixture is None or isinstance(value, str) else mixture.to_mapping()


def _method(option: Option, value: object) -> str | dict[str, Any]:
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
        "parameters": _size,
        "bytes": _size,
        "patterns": _patterns,
        "choice": _choice,
        "method": _method,
        "ratio": _ratio,
        "text": _text,
        "data": _data,
        "switch": _boolean,
        "flag": _boolean,
    }
)

_PARSERS: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    dict.fromkeys(("fraction", "amount", "share", "count", "seed"), number)
)
