"""StableLM: LLaMA's layer whose config derives the head size, so that heads need the table.

Attention and feed-forward layer are one after the other or side by side. With ``qk_layernorm`` every head has a norm
module of its own, and heads stay.
"""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import GROUPED, tiny
from optimum_grail.architectures.llama import HEADS, LLAMA, MLP
from optimum_grail.core.spec import never

NO_NORMS = ("qk_layernorm", False)
STABLELM_HEADS = replace(
    HEADS,
    attributes=(
        *HEADS.attributes,
        ("self_attn.num_heads", "query"),
        ("self_attn.num_key_value_heads", "key_value"),
    ),
    pinned=(),
    accepts=never,
    bias_flag=None,
    when=(("use_parallel_residual", False), NO_NORMS),
)
tiny_parallel_stablelm = tiny(
    "StableLmForCausalLM", **GROUPED, partial_rotary_factor=0.5, use_parallel_residual=True, use_qkv_bias=True
)
STABLELM = replace(
    LLAMA,
    model_types=("stablelm",),
    groups=(
        STABLELM_HEADS,
        replace(STABLELM_HEADS, stream="@block", when=(("use_parallel_residual", True), NO_NORMS)),
        replace(MLP, bias_flag=None),
    ),
    example=tiny("StableLmForCausalLM", **GROUPED, partial_rotary_factor=0.5),
    impossible={"heads": "With qk_layernorm every head has a norm module of its own, by its place."},
)
SPECS = (STABLELM,)
