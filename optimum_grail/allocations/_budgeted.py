"""What allocations share that can meet a budget of something else than parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from optimum_grail.core.contracts import Allocation, Resource
from optimum_grail.core.problem import Need
from optimum_grail.errors import ConfigError

MEASURED: Mapping[str, Need] = MappingProxyType({"flops": "positions", "latency": "latency"})


@dataclass(frozen=True)
class Budgeted(Allocation):
    """Has a ``budget``: what the sparsity is a fraction of, see the allocation.

    Raises:
        ConfigError: an unknown budget.
    """

    budget: Literal["parameters", "flops", "kv-cache", "latency"] = "parameters"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget not in get_args(Resource):
            raise ConfigError(f"budget is {self.budget!r}; expected {', '.join(get_args(Resource))}.")

    @property
    def resource(self) -> Resource:
        """What the budget counts."""
        return self.budget

    @property
    def needs(self) -> frozenset[Need]:
        """What the costs of the resource are computed from."""
        return super().needs | ({MEASURED[self.budget]} if self.budget in MEASURED else set())
