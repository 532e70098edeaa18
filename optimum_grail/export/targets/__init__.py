"""One file per format of another engine."""

from __future__ import annotations

from optimum_grail.export.contract import Target
from optimum_grail.registry import Registry

TARGETS: Registry[type[Target]] = Registry(
    "export target", __name__, "`optimum-cli grail list targets` describes them."
)
