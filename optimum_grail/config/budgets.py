"""Fields that say how much shall go, by what they count."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

UNIT_BUDGETS = (
    "ffn_sparsity",
    "head_sparsity",
    "head_dim_sparsity",
    "channel_sparsity",
    "expert_sparsity",
    "experts",
    "expert_ffn_sparsity",
)
TARGETS: Mapping[str, str] = MappingProxyType({"target_parameters": "parameters", "target_bytes": "bytes"})
"""Sizes of the whole model, and the budget that counts them."""
BUDGETS: tuple[str, ...] = ("sparsity", *UNIT_BUDGETS, *TARGETS)
