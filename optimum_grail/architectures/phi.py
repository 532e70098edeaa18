"""Phi: attention and feed-forward layer side by side, both on the same norm, both added to the residual sum at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.architectures.llama import HEADS, LLAMA
from optimum_grail.core.spec import Mlp

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def without_qk_norm(config: PreTrainedConfig, values: Mapping[str, int]) -> bool:
    """The norms of queries and keys are as long as hidden_size / heads, whatever ``head_dim`` says."""
    return not config.qk_layernorm


PHI = replace(
    LLAMA,
    model_types=("phi",),
    groups=(
        replace(HEADS, out="self_attn.dense", stream="@block", accepts=without_qk_norm, bias_flag=None),
        Mlp(produce=("mlp.fc1",), consume="mlp.fc2", stream="@block"),
    ),
    example=tiny("PhiForCausalLM", **WIDE_HEADS),
)
SPECS = (PHI,)
