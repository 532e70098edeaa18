"""Mixtures of experts on LLaMA's attention: heads can go, and an expert that all tokens pass; the routed ones stay."""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import GROUPED, WIDE_HEADS, tiny
from optimum_grail.architectures.llama import HEADS, LLAMA
from optimum_grail.core.spec import Mlp, always, never

EXPERTS = "The routed experts of a layer hold their weights in one tensor, whose parts a map cannot name."
FEW = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
FREE_HEADS = replace(HEADS, accepts=always)
QWEN3_MOE = replace(
    LLAMA,
    model_types=("qwen3_moe",),
    groups=(FREE_HEADS,),
    example=tiny("Qwen3MoeForCausalLM", **WIDE_HEADS, **FEW),
    impossible={"mlp": EXPERTS},
)
MIXTRAL = replace(
    QWEN3_MOE,
    model_types=("mixtral",),
    groups=(replace(FREE_HEADS, bias_flag=None),),
    example=tiny("MixtralForCausalLM", **{**WIDE_HEADS, "intermediate_size": 12}, num_local_experts=4),
)
QWEN2_MOE = replace(
    QWEN3_MOE,
    model_types=("qwen2_moe",),
    groups=(
        replace(FREE_HEADS, bias_flag=None),
        Mlp(
            produce=("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
            consume="mlp.shared_expert.down_proj",
            stream=None,  # each token weighs it on its own
            field="shared_expert_intermediate_size",
            attributes=("mlp.shared_expert.intermediate_size",),
        ),
    ),
    example=tiny("Qwen2MoeForCausalLM", **WIDE_HEADS, **FEW, shared_expert_intermediate_size=24),
)
GRANITEMOE = replace(
    QWEN3_MOE,
    model_types=("granitemoe",),
    groups=(replace(FREE_HEADS, factor="residual_multiplier"),),
    example=tiny(
        "GraniteMoeForCausalLM",
        **{**WIDE_HEADS, "intermediate_size": 12},
        num_local_experts=4,
        residual_multiplier=0.4,
        attention_multiplier=0.3,
    ),
)
OLMOE = replace(
    QWEN3_MOE,
    model_types=("olmoe",),
    groups=(
        replace(
            HEADS,
            channelwise=("self_attn.q_norm", "self_attn.k_norm"),
            mixes=True,
            accepts=never,
        ),
    ),
    example=tiny("OlmoeForCausalLM", **{**GROUPED, "intermediate_size": 12}, num_experts=4, num_experts_per_tok=2),
)
SPECS = (QWEN3_MOE, MIXTRAL, QWEN2_MOE, GRANITEMOE, OLMOE)
