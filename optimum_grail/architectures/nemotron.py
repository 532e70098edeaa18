"""Nemotron and Arcee: LLaMA's attention and a feed-forward pair without a gate."""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.architectures.llama import HEADS, LLAMA, MLP
from optimum_grail.core.spec import always

UP_DOWN = replace(MLP, produce=("mlp.up_proj",))
ARCEE = replace(LLAMA, model_types=("arcee",), groups=(HEADS, UP_DOWN), example=tiny("ArceeForCausalLM", **WIDE_HEADS))
NEMOTRON = replace(
    LLAMA,
    model_types=("nemotron",),
    groups=(
        replace(
            HEADS,
            attributes=(("self_attn.num_heads", "query"), ("self_attn.num_key_value_heads", "key_value")),
            accepts=always,
        ),
        UP_DOWN,
    ),
    example=tiny("NemotronForCausalLM", **WIDE_HEADS),
)
SPECS = (ARCEE, NEMOTRON)
