"""From the spelling of a method to the method: names looked up, options checked against the dataclass's fields."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.compensators import COMPENSATORS
from optimum_grail.config.options import OVERRIDES
from optimum_grail.config.spelling import coerce, parse_method
from optimum_grail.core.contracts import Allocation, Compensator, Refit, Selector
from optimum_grail.core.needs import check_needs
from optimum_grail.core.pattern import Pattern, PatternSelector
from optimum_grail.errors import ConfigError, did_you_mean
from optimum_grail.patterns import PATTERNS
from optimum_grail.refits import REFITS
from optimum_grail.registry import Registry
from optimum_grail.selectors import SELECTORS

REGISTRIES: Mapping[str, Registry[Any]] = {
    "selector": SELECTORS,
    "compensator": COMPENSATORS,
    "allocation": ALLOCATIONS,
    "refit": REFITS,
    "pattern_selector": PATTERNS,
}
CONTRACTS: Mapping[str, Any] = {
    "selector": Selector,
    "compensator": Compensator,
    "allocation": Allocation,
    "refit": Refit,
    "pattern_selector": PatternSelector,
}


def method_options(entry: Any) -> dict[str, tuple[Any, Any]]:
    """The options of a method (a frozen dataclass): name to ``(annotation, default)``."""
    hints = typing.get_type_hints(entry)
    return {field.name: (hints[field.name], field.default) for field in dataclasses.fields(entry) if field.init}


def build_method(part: str, spelling: str | Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    """Build the method that ``spelling`` names.

    Args:
        part: ``"selector"``, ``"compensator"``, ``"allocation"``, ``"refit"`` or ``"pattern_selector"``.
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
            guess = did_you_mean(key, fields)
            raise ConfigError(f"The {part} {name!r} has no option {key!r}.{guess} {_has(name, fields)}")
    method = entry(**{key: _converted(part, name, key, value, fields[key][0]) for key, value in options.items()})
    check_needs(part, name, method.needs)
    return method


def build_expert_selector(spelling: str | Mapping[str, Any]) -> Selector:
    """Build the selector of experts that ``spelling`` names.

    Raises:
        UnknownNameError, ConfigError: as :func:`build_method`; or the selector reads what is measured of channels.
    """
    method: Selector = build_method("selector", spelling, {})
    if method.needs <= {"routing"} and not method.tuning_rounds:
        return method
    able = [name for name in SELECTORS.names() if build_method("selector", name, {}).needs <= {"routing"}]
    raise ConfigError(
        f"The selector {parse_method(spelling)[0]!r} judges channels by their second moments or gradients, and cannot "
        f"choose experts. Selectors that can: {', '.join(able)}."
    )


def build_pattern(pattern: str | None, spelling: str | Mapping[str, Any]) -> tuple[Pattern, PatternSelector] | None:
    """The pattern ``"N:M"`` and what chooses its weights; ``None`` without a pattern.

    Raises:
        UnknownNameError, ConfigError: as :func:`build_method`; or ``pattern`` is none.
    """
    selector = build_method("pattern_selector", spelling, {})
    return None if pattern is None else (Pattern.read(pattern), selector)


def build_allocation(spelling: str | Mapping[str, Any], asked: Mapping[str, Any], given: bool) -> Allocation:
    """Build the allocation that ``spelling`` names, with the configuration's fields that set options of it.

    Args:
        spelling: as :func:`build_method` takes it.
        asked: values of the fields that were set, by name (:data:`optimum_grail.config.options.OVERRIDES`).
        given: whether the user wrote ``spelling``; a preset's options give way to fields, a user's contradict them.

    Raises:
        UnknownNameError: no allocation of that name.
        ConfigError: as :func:`build_method`; an option that contradicts a field; a field that this allocation cannot
            honour, with the names of those that can.
    """
    name, spelled = parse_method(spelling)
    fields = method_options(ALLOCATIONS.get(name))
    options = {OVERRIDES["allocation"][field]: (field, value) for field, value in asked.items()}
    for option, (field, value) in options.items():
        own = spelled.get(option, value) if given and option in fields else value
        if str(own).lower() != str(value).lower():
            raise ConfigError(
                f"{field}={value} and {option}={own} of the allocation {name!r} contradict each other. Give one."
            )
    method: Allocation = build_method(
        "allocation", spelling, {option: value for option, (_, value) in options.items() if option in fields}
    )
    if asked.get("drop_layers", method.drops_layers) != method.drops_layers:
        able = [other for other, entry in ALLOCATIONS if "depth" in method_options(entry)]
        raise ConfigError(
            f"The allocation {name!r} {'drops' if method.drops_layers else 'cannot drop'} whole layers, and "
            f"drop_layers is {str(asked['drop_layers']).lower()}. Allocations that do either: {', '.join(able)}."
        )
    return method


def _has(name: str, fields: Mapping[str, Any]) -> str:
    return f"Options of {name!r}: {', '.join(fields) or 'none'}."


def _converted(part: str, name: str, key: str, value: object, hint: object) -> Any:
    try:
        return coerce(value, hint)
    except ConfigError as error:
        raise ConfigError(f"{key} of the {part} {name!r} is {error}") from None
