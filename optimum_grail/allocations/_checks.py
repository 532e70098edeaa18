"""Checks that allocations share."""

from __future__ import annotations

from optimum_grail.errors import ConfigError


def check_round_to(value: int) -> None:
    """Refuse a ``round_to`` that is not a positive whole number.

    Raises:
        ConfigError: names the value.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"round_to is {value!r}; expected a whole number of at least 1, for example 64.")
