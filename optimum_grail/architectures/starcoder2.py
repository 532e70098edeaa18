"""StarCoder2: LLaMA's attention with biases and a feed-forward pair without a gate."""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.architectures.llama import LLAMA, TURNING
from optimum_grail.core.spec import Mlp, always

STARCODER2 = replace(
    LLAMA,
    model_types=("starcoder2",),
    groups=(
        replace(TURNING, accepts=always, bias_flag="use_bias"),
        Mlp(produce=("mlp.c_fc",), consume="mlp.c_proj", stream="@block", bias_flag="use_bias"),
    ),
    example=tiny("Starcoder2ForCausalLM", **WIDE_HEADS),
)
SPECS = (STARCODER2,)
