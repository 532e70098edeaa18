"""From the spelling of a method to the method: names looked up, options checked against the dataclass's fields."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.compensators import COMPENSATORS
from optimum_grail.config.values import coerce, parse_method
from optimum_grail.core.contracts import Allocation, Compensator, Selector
from optimum_grail.core.needs import check_needs
from optimum_grail.errors import ConfigError
from optimum_grail.registry import Registry
from optimum_grail.selectors import SELECTORS

REGISTRIES: Mapping[str, Registry[Any]] = {
    "selector": SELECTORS,
    "compensator": COMPENSATORS,
    "allocation": ALLOCATIONS,
}
CONTRACTS: Mapping[str, Any] = {"selector": Selector, "compensator": Compensator, "allocation": Allocation}


def method_options(entry: Any) -> dict[str, tuple[Any, Any]]:
    """The options of a method (a frozen dataclass): name to ``(annotation, default)``."""
    hints = typing.get_type_hints(entry)
    return {field.name: (hints[field.name], field.default) for field in dataclasses.fields(entry) if field.init}


def build_method(part: str, spelling: str | Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    """Build the method that ``spelling`` names.

    Args:
        part: ``"selector"``, ``"compensator"`` or ``"allocation"``.
        spelling: ``NAME``, ``NAME:key=value,...`` or ``{"name": NAME, key: value}``; words are converted to the types
            of the method's fields.
        overrides: options that win over those of ``spelling``.

    Raises:
        UnknownNameError: no method of that name, or the method asks for what nothing measures; the message names the
            nearest.
        ConfigError: the method has no such option, or refuses its value; the message names its options. Or what is
            registered under the name keeps no contract of the package.
    """
    name, options = parse_method(spelling)
    entry = REGISTRIES[part].get(name)
    contract = CONTRACTS[part]
    if not (isinstance(entry, type) and issubclass(entry, contract)):
        raise ConfigError(
            f"The {part} {name!r} is registered as {entry!r}; expected a class derived from "
            f"optimum_grail.core.contracts.{contract.__name__}."
        )
    fields = method_options(entry)
    options |= overrides
    for key in options:
        if key not in fields:
            raise ConfigError(f"The {part} {name!r} has no option {key!r}. {_has(name, fields)}")
    method = entry(**{key: _converted(part, name, key, value, fields[key][0]) for key, value in options.items()})
    check_needs(part, name, method.needs)
    return method


def _has(name: str, fields: Mapping[str, Any]) -> str:
    return f"Options of {name!r}: {', '.join(fields) or 'none'}."


def _converted(part: str, name: str, key: str, value: Any, hint: Any) -> Any:
    try:
        return coerce(value, hint)
    except ConfigError as error:
        raise ConfigError(f"{key} of the {part} {name!r} is {error}") from None
