"""LLaMA and the families that share its layer: grouped-query attention and a gated feed-forward pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from optimum_grail.architectures._rigid import NEIGHBOURS
from optimum_grail.architectures._tiny import GROUPED, WIDE_HEADS, seeded, tiny
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, always, never

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def divides_hidden_size(config: PreTrainedConfig, values: Mapping[str, int]) -> bool:
    """LlamaConfig refuses a number of heads that does not divide ``hidden_size``, whatever ``head_dim`` says."""
    return bool(config.hidden_size % values["num_attention_heads"] == 0)


SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}


def tiny_llama() -> nn.Module:
    """Three layers, 8 query heads in 4 groups of 8 dimensions (not hidden_size / heads), 48 FFN channels."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return seeded(lambda: LlamaForCausalLM(LlamaConfig(**SIZES)))


def tiny_mistral() -> nn.Module:
    """The same sizes as :func:`tiny_llama`; this config takes any number of heads."""
    from transformers import MistralConfig, MistralForCausalLM

    return seeded(lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)))


HEADS = Heads(
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    out="self_attn.o_proj",
    stream="post_attention_layernorm",
    head_dim="self_attn.head_dim",
    attributes=(("self_attn.num_key_value_groups", "per_key"),),
    key_value_field="num_key_value_heads",
    shared=(("num_key_value_heads", 1),),
    pinned=(("head_dim", "self_attn.head_dim"),),
    accepts=divides_hidden_size,
    bias_flag="attention_bias",
)
TURNING = replace(HEADS, rotary="rotary_emb")
"""Heads whose dimensions are turned in halves and looked at by nothing else, so that they can shrink inside."""
MLP = Mlp(
    produce=("mlp.gate_proj", "mlp.up_proj"),
    consume="mlp.down_proj",
    stream="@block",
    attributes=("mlp.intermediate_size",),
    bias_flag="mlp_bias",
)
LLAMA = ArchitectureSpec(
    model_types=("llama",),
    blocks=("layers.*",),
    groups=(TURNING, MLP),
    example=tiny_llama,
    mask="attention_mask",
    depth_field="num_hidden_layers",
)
MISTRAL = replace(
    LLAMA,
    model_types=("mistral",),
    groups=(replace(TURNING, accepts=always, bias_flag=None), replace(MLP, bias_flag=None)),
    example=tiny_mistral,
)
SLIDING = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
MINISTRAL = replace(MISTRAL, model_types=("ministral",), example=tiny("MinistralForCausalLM", **WIDE_HEADS, **SLIDING))
CWM = replace(
    MISTRAL,
    model_types=("cwm",),
    groups=(replace(TURNING, bias_flag=None), MLP),
    example=tiny("CwmForCausalLM", **WIDE_HEADS, **SLIDING),
)
SEED_OSS = replace(
    LLAMA,
    model_types=("seed_oss",),
    groups=(
        replace(
            TURNING,
            attributes=(
                *HEADS.attributes,
                ("self_attn.num_attention_heads", "query"),
                ("self_attn.num_key_value_heads", "key_value"),
            ),
            accepts=always,
            bias_flag=None,
        ),
        MLP,
    ),
    example=tiny("SeedOssForCausalLM", **WIDE_HEADS),
)
HELIUM = replace(
    LLAMA,
    model_types=("helium",),
    groups=(replace(HEADS, accepts=never, bias_flag=None, rigid=NEIGHBOURS), MLP),
    example=tiny("HeliumForCausalLM", **{**GROUPED, "head_dim": 4}),
)
SPECS = (LLAMA, MISTRAL, MINISTRAL, CWM, SEED_OSS, HELIUM)
