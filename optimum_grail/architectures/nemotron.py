"""Nemotron, Arcee, Apertus and NanoChat: LLaMA's attention and a feed-forward pair without a gate."""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.architectures.llama import HEADS, LLAMA, MLP, TURNING
from optimum_grail.core.spec import always

UP_DOWN = replace(MLP, produce=("mlp.up_proj",))
ARCEE = replace(
    LLAMA, model_types=("arcee",), groups=(TURNING, UP_DOWN), example=tiny("ArceeForCausalLM", **WIDE_HEADS)
)
NEMOTRON = replace(
    LLAMA,
    model_types=("nemotron",),
    groups=(
        replace(
            HEADS,
            attributes=(
                *HEADS.attributes,
                ("self_attn.num_heads", "query"),
                ("self_attn.num_key_value_heads", "key_value"),
            ),
            accepts=always,
        ),
        UP_DOWN,
    ),
    example=tiny("NemotronForCausalLM", **WIDE_HEADS),
)
APERTUS = replace(
    LLAMA,
    model_types=("apertus",),
    groups=(
        replace(HEADS, stream="feedforward_layernorm", accepts=always),
        replace(UP_DOWN, bias_flag=None),
    ),
    example=tiny("ApertusForCausalLM", **WIDE_HEADS),
)
NANOCHAT = replace(
    LLAMA,
    model_types=("nanochat",),
    groups=(
        replace(HEADS, accepts=always),
        replace(UP_DOWN, produce=("mlp.fc1",), consume="mlp.fc2", attributes=(), bias_flag=None),
    ),
    example=tiny("NanoChatForCausalLM", **WIDE_HEADS),
)
SPECS = (ARCEE, NEMOTRON, APERTUS, NANOCHAT)
