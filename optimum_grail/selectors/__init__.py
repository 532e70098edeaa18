"""One file per selector; a selector chooses what stays."""

from __future__ import annotations

from optimum_grail.core.contracts import Selector
from optimum_grail.registry import Registry

SELECTORS: Registry[type[Selector]] = Registry(
    "selector", __name__, "`optimum-cli grail list selectors` describes them."
)
