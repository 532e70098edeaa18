"""Qwen, Ernie 4.5 and HunYuan: LLaMA's layer; the head size is free, and each head may be normalised by itself."""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._rigid import NEIGHBOURS, NORMED
from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.architectures.llama import HEADS, LLAMA, MLP, TURNING
from optimum_grail.core.spec import always

FREE_HEADS = replace(HEADS, accepts=always)
PLAIN_MLP = replace(MLP, bias_flag=None)
SLIDING = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
QWEN2 = replace(
    LLAMA,
    model_types=("qwen2",),
    groups=(replace(TURNING, accepts=always, bias_flag=None), PLAIN_MLP),
    example=tiny("Qwen2ForCausalLM", **WIDE_HEADS, **SLIDING),
)
QWEN3 = replace(
    LLAMA,
    model_types=("qwen3",),
    groups=(replace(FREE_HEADS, rigid=NORMED), PLAIN_MLP),
    example=tiny("Qwen3ForCausalLM", **WIDE_HEADS, **SLIDING),
)
HUNYUAN = replace(QWEN3, model_types=("hunyuan_v1_dense",), example=tiny("HunYuanDenseV1ForCausalLM", **WIDE_HEADS))
ERNIE = replace(
    QWEN3,
    model_types=("ernie4_5",),
    groups=(replace(FREE_HEADS, bias_flag="use_bias", rigid=NEIGHBOURS), replace(MLP, bias_flag="use_bias")),
    example=tiny("Ernie4_5ForCausalLM", **WIDE_HEADS),
)
SPECS = (QWEN2, QWEN3, HUNYUAN, ERNIE)
