"""Command R: attention and feed-forward layer side by side, both added to the residual sum at once."""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._rigid import NEIGHBOURS
from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.architectures.llama import HEADS, LLAMA, MLP
from optimum_grail.core.spec import always

COHERE_HEADS = replace(HEADS, stream="@block", accepts=always, rigid=NEIGHBOURS)
COHERE = replace(
    LLAMA,
    model_types=("cohere",),
    groups=(replace(COHERE_HEADS, when=(("use_qk_norm", False),)), replace(MLP, bias_flag=None)),
    example=tiny("CohereForCausalLM", **WIDE_HEADS),
    impossible={"heads": "With use_qk_norm every head has a norm of its own, by its place."},
)
COHERE2 = replace(
    COHERE,
    model_types=("cohere2",),
    groups=(COHERE_HEADS, replace(MLP, bias_flag=None)),
    example=tiny(
        "Cohere2ForCausalLM",
        **WIDE_HEADS,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    impossible={},
)
SPECS = (COHERE, COHERE2)
