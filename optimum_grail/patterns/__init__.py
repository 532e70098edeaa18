"""One file per selector of a pattern; it chooses which weights of a linear layer stay, and their values."""

from __future__ import annotations

from optimum_grail.core.pattern import PatternSelector
from optimum_grail.registry import Registry

PATTERNS: Registry[type[PatternSelector]] = Registry(
    "pattern selector", __name__, "`optimum-cli grail list pattern_selectors` describes them."
)
