"""OLMo: LLaMA's layer. From OLMo 2 on, norms stand behind the consumers, and queries and keys are normalised over all
heads at once: dropping some changes what the others feel a little."""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.architectures.llama import HEADS, LLAMA, MLP
from optimum_grail.core.spec import always

OLMO = replace(
    LLAMA,
    model_types=("olmo",),
    groups=(replace(HEADS, accepts=always), replace(MLP, bias_flag=None)),
    example=tiny("OlmoForCausalLM", **WIDE_HEADS, clip_qkv=4.0),
)
OLMO2 = replace(
    OLMO,
    model_types=("olmo2",),
    groups=(
        replace(
            HEADS,
            accepts=always,
            stream=None,
            channelwise=("self_attn.q_norm", "self_attn.k_norm"),
            mixes=True,
        ),
        replace(MLP, bias_flag=None, stream=None),
    ),
    example=tiny("Olmo2ForCausalLM", **WIDE_HEADS),
)
OLMO3 = replace(
    OLMO2,
    model_types=("olmo3",),
    example=tiny(
        "Olmo3ForCausalLM",
        **WIDE_HEADS,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
)
SPECS = (OLMO, OLMO2, OLMO3)
