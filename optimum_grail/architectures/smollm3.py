"""SmolLM3: LLaMA's layer; some layers have no rotary positions."""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.architectures.llama import LLAMA, TURNING
from optimum_grail.core.spec import always

SMOLLM3 = replace(
    LLAMA,
    model_types=("smollm3",),
    groups=(replace(TURNING, accepts=always), *LLAMA.groups[1:]),
    depth_lists=("layer_types", "no_rope_layers"),
    example=tiny("SmolLM3ForCausalLM", **WIDE_HEADS, no_rope_layers=[1, 0, 1]),
)
SPECS = (SMOLLM3,)
