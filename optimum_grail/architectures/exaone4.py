"""EXAONE 4: LLaMA's layer with norms behind the consumers, and norms of queries and keys for each head by itself."""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.architectures.llama import HEADS, LLAMA, MLP
from optimum_grail.core.spec import always

EXAONE4 = replace(
    LLAMA,
    model_types=("exaone4",),
    groups=(
        replace(
            HEADS,
            stream=None,
            attributes=(
                *HEADS.attributes,
                ("self_attn.num_attention_heads", "query"),
                ("self_attn.num_key_value_heads", "key_value"),
            ),
            accepts=always,
            bias_flag=None,
        ),
        replace(MLP, stream=None, bias_flag=None),
    ),
    example=tiny(
        "Exaone4ForCausalLM",
        **WIDE_HEADS,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
)
SPECS = (EXAONE4,)
