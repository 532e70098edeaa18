"""Phi-3 and Phi-4: queries, keys and values in one projection, gate and up in another. Attention reads the number of
heads from the config shared by all layers, so that all layers have the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, Strip

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def without_long_rope(config: PreTrainedConfig, values: Mapping[str, int]) -> bool:
    """Lists of factors of long contexts are as long as hidden_size / heads says, whatever ``head_dim`` says."""
    return not any(config.rope_parameters.get(f"{reach}_factor") for reach in ("short", "long"))


PHI3 = ArchitectureSpec(
    model_types=("phi3",),
    blocks=("layers.*",),
    groups=(
        Heads(
            query=Strip("self_attn.qkv_proj", 0, 3),
            key=Strip("self_attn.qkv_proj", 1, 3),
            value=Strip("self_attn.qkv_proj", 2, 3),
            out="self_attn.o_proj",
            stream="post_attention_layernorm",
            head_dim="self_attn.head_dim",
            attributes=(
                ("self_attn.config.num_attention_heads", "query"),
                ("self_attn.num_key_value_heads", "key_value"),
            ),
            key_value_field="num_key_value_heads",
            pinned=(("head_dim", "self_attn.head_dim"),),
            accepts=without_long_rope,
            uniform=True,
        ),
        Mlp(
            produce=(Strip("mlp.gate_up_proj", 0, 2), Strip("mlp.gate_up_proj", 1, 2)),
            consume="mlp.down_proj",
            stream="@block",
        ),
    ),
    example=tiny("Phi3ForCausalLM", **WIDE_HEADS),
    mask="attention_mask",
    depth_field="num_hidden_layers",
)
SPECS = (PHI3,)
