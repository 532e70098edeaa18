"""Checks that pattern selectors share."""

from __future__ import annotations

import math

from optimum_grail.errors import ConfigError


def check_damping(name: str, value: float) -> None:
    """Refuse what is no positive finite number.

    Raises:
        ConfigError: naming the selector and the value.
    """
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{name} damping is {value!r}; expected a positive number, for example 0.01.")
