"""LLaMA and the families that share its layer: grouped-query attention and a gated feed-forward pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from optimum_grail.architectures._tiny import seeded
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, always

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
    key_value_field="num_key_value_heads",
    pinned=(("head_dim", "self_attn.head_dim"),),
    accepts=divides_hidden_size,
    bias_flag="attention_bias",
)
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
    groups=(HEADS, MLP),
    example=tiny_llama,
    mask="attention_mask",
    depth_field="num_hidden_layers",
)
MISTRAL = replace(
    LLAMA,
    model_types=("mistral",),
    groups=(replace(HEADS, accepts=always, bias_flag=None), replace(MLP, bias_flag=None)),
    example=tiny_mistral,
)
SPECS = (LLAMA, MISTRAL)
