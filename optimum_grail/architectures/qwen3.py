"""Qwen3, Ernie 4.5 and HunYuan: LLaMA's layer in which the head size is free and heads may have norms of their own."""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.architectures.llama import HEADS, LLAMA, MLP
from optimum_grail.core.spec import always

FREE_HEADS = replace(HEADS, accepts=always)
PLAIN_MLP = replace(MLP, bias_flag=None)
QWEN3 = replace(
    LLAMA,
    model_types=("qwen3",),
    groups=(FREE_HEADS, PLAIN_MLP),
    example=tiny(
        "Qwen3ForCausalLM",
        **WIDE_HEADS,
        use_sliding_window=True,
        sliding_window=6,
        max_window_layers=1,
    ),
)
HUNYUAN = replace(QWEN3, model_types=("hunyuan_v1_dense",), example=tiny("HunYuanDenseV1ForCausalLM", **WIDE_HEADS))
ERNIE = replace(
    QWEN3,
    model_types=("ernie4_5",),
    groups=(replace(FREE_HEADS, bias_flag="use_bias"), replace(MLP, bias_flag="use_bias")),
    example=tiny("Ernie4_5ForCausalLM", **WIDE_HEADS),
)
SPECS = (QWEN3, HUNYUAN, ERNIE)
