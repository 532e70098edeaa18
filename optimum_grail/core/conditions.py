"""What maps say about configs: which values a stock config takes, and which it must have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

StockAccepts = Callable[[Any, Mapping[str, int]], bool]
"""``(config, new field values) -> bool``: whether the stock config class takes these values."""
Conditions = tuple[tuple[str, object], ...]
"""Config fields, each with the value that it must have; empty: no condition."""


def always(config: Any, values: Mapping[str, int]) -> bool:
    """The stock config takes any value."""
    return True


def never(config: Any, values: Mapping[str, int]) -> bool:
    """The stock config cannot say this width: it goes to the per-layer table."""
    return False
