"""One file per allocation; an allocation shares a budget out."""

from __future__ import annotations

from optimum_grail.core.contracts import Allocation
from optimum_grail.registry import Registry

ALLOCATIONS: Registry[type[Allocation]] = Registry(
    "allocation", __name__, "`optimum-cli grail list allocations` describes them."
)
