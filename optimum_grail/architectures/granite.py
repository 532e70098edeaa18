"""Granite: LLaMA's layer, whose outputs are multiplied by a number before they join the residual sum."""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.architectures.llama import HEADS, LLAMA, MLP
from optimum_grail.core.spec import always

FACTOR = "residual_multiplier"
GRANITE = replace(
    LLAMA,
    model_types=("granite",),
    groups=(replace(HEADS, accepts=always, factor=FACTOR), replace(MLP, factor=FACTOR)),
    example=tiny(
        "GraniteForCausalLM",
        **WIDE_HEADS,
        residual_multiplier=0.4,
        attention_multiplier=0.3,
        embedding_multiplier=2.0,
        logits_scaling=0.5,
    ),
)
SPECS = (GRANITE,)
