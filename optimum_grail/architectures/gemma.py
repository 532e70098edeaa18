"""Gemma: LLaMA's layer; from Gemma 2 on, norms stand between a consumer and the residual sum too."""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.architectures.llama import HEADS, LLAMA, MLP, TURNING
from optimum_grail.core.spec import always

LAYERS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 6}
PLAIN_MLP = replace(MLP, bias_flag=None)
GEMMA = replace(
    LLAMA,
    model_types=("gemma",),
    groups=(replace(TURNING, accepts=always), PLAIN_MLP),
    example=tiny("GemmaForCausalLM", **WIDE_HEADS),
)
GEMMA2 = replace(
    LLAMA,
    model_types=("gemma2",),
    groups=(replace(HEADS, stream=None), replace(PLAIN_MLP, stream=None)),
    example=tiny("Gemma2ForCausalLM", **WIDE_HEADS, **LAYERS, query_pre_attn_scalar=8),
)
tiny_one_key_gemma3 = tiny(
    "Gemma3ForCausalLM", **{**WIDE_HEADS, "num_key_value_heads": 1}, **LAYERS, query_pre_attn_scalar=8
)
GEMMA3 = replace(
    GEMMA2,
    model_types=("gemma3_text",),
    example=tiny("Gemma3ForCausalLM", **WIDE_HEADS, **LAYERS, query_pre_attn_scalar=8),
)
VAULTGEMMA = replace(
    LLAMA,
    model_types=("vaultgemma",),
    groups=(replace(HEADS, accepts=always, stream="pre_feedforward_layernorm"), PLAIN_MLP),
    example=tiny("VaultGemmaForCausalLM", **WIDE_HEADS, **LAYERS, query_pre_attn_scalar=8),
)
SPECS = (GEMMA, GEMMA2, GEMMA3, VAULTGEMMA)
