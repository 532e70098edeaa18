"""Mixtures of experts: whole routed experts can go, channels inside them, heads, layers without experts, an expert that
all tokens pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optimum_grail.architectures._tiny import GROUPED, WIDE_HEADS, tiny
from optimum_grail.architectures.llama import HEADS, LLAMA
from optimum_grail.core.groups import EXPERT_STEP
from optimum_grail.core.spec import ExpertChannels, Experts, Mlp, SharedChannels, always, never

INSIDE = "All of them are inside routed experts (--expert-ffn-sparsity)."
GROUPS = (
    "Where the router divides experts into groups and chooses among these first (n_group above 1), they would have to "
    "go evenly out of all; channels inside them can go (--expert-ffn-sparsity)."
)
LATENT = "Keys and values of all heads come from one latent vector, and the map knows no such heads."
FEW = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
FREE_HEADS = replace(HEADS, accepts=always)
EXPERTS = Experts(
    router="mlp.gate",
    bank="mlp.experts",
    chosen="mlp.gate.top_k",
    attributes=("mlp.gate.num_experts", "mlp.experts.num_experts"),
)


def eights(config: Any, values: Mapping[str, int]) -> bool:
    """Widths that the kernels of experts take."""
    return all(value % EXPERT_STEP == 0 for value in values.values())


def channels(experts: Experts, field: str = "moe_intermediate_size", width: str = "intermediate_dim") -> ExpertChannels:
    """The channels inside ``experts``: the config field and the bank's attribute that say how many there are."""
    return ExpertChannels(
        bank=experts.bank,
        chosen=experts.chosen,
        attributes=(f"{experts.bank}.{width}",),
        field=field,
        accepts=eights,
        factor=experts.factor,
        holds=experts.holds,
    )


def shared(count: str, bias_flag: str | None = None) -> SharedChannels:
    """The channels of experts that all tokens pass; the config field that says how many there are."""
    return SharedChannels(
        produce=("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj"),
        consume="mlp.shared_experts.down_proj",
        count=count,
        attributes=("mlp.shared_experts.intermediate_size",),
        accepts=eights,
        bias_flag=bias_flag,
        holds="mlp.shared_experts",
    )


DENSE_MLP = Mlp(
    produce=("mlp.gate_proj", "mlp.up_proj"),
    consume="mlp.down_proj",
    stream="@block",
    attributes=("mlp.intermediate_size",),
    holds="mlp.gate_proj",
)
SOME_EXPERTS = replace(EXPERTS, holds="mlp.experts")
QWEN3_MOE = replace(
    LLAMA,
    model_types=("qwen3_moe",),
    groups=(FREE_HEADS, DENSE_MLP, SOME_EXPERTS, channels(SOME_EXPERTS)),
    example=tiny("Qwen3MoeForCausalLM", **WIDE_HEADS, **FEW),
    impossible={"mlp": INSIDE},
)
LOCAL_EXPERTS = replace(EXPERTS, field="num_local_experts")
MIXTRAL = replace(
    QWEN3_MOE,
    model_types=("mixtral",),
    groups=(replace(FREE_HEADS, bias_flag=None), LOCAL_EXPERTS, channels(LOCAL_EXPERTS, "intermediate_size")),
    example=tiny("MixtralForCausalLM", **{**WIDE_HEADS, "intermediate_size": 16}, num_local_experts=4),
)
QWEN2_MOE = replace(
    QWEN3_MOE,
    model_types=("qwen2_moe",),
    groups=(
        replace(FREE_HEADS, bias_flag=None),
        DENSE_MLP,
        Mlp(
            produce=("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
            consume="mlp.shared_expert.down_proj",
            stream=None,  # each token weighs it on its own
            field="shared_expert_intermediate_size",
            attributes=("mlp.shared_expert.intermediate_size",),
            holds="mlp.experts",
        ),
        SOME_EXPERTS,
        channels(SOME_EXPERTS),
    ),
    example=tiny("Qwen2MoeForCausalLM", **WIDE_HEADS, **FEW, shared_expert_intermediate_size=20),
)
GRANITE_EXPERTS = Experts(
    router="block_sparse_moe.router",
    bank="block_sparse_moe.experts",
    chosen="block_sparse_moe.router.top_k",
    field="num_local_experts",
    attributes=("block_sparse_moe.router.num_experts", "block_sparse_moe.experts.num_experts"),
    factor="residual_multiplier",
)
GRANITEMOE = replace(
    QWEN3_MOE,
    model_types=("granitemoe",),
    groups=(
        replace(FREE_HEADS, factor="residual_multiplier"),
        GRANITE_EXPERTS,
        channels(GRANITE_EXPERTS, "intermediate_size"),
    ),
    example=tiny(
        "GraniteMoeForCausalLM",
        **{**WIDE_HEADS, "intermediate_size": 16},
        num_local_experts=4,
        residual_multiplier=0.4,
        attention_multiplier=0.3,
    ),
)
NORMED_HEADS = replace(HEADS, channelwise=("self_attn.q_norm", "self_attn.k_norm"), mixes=True, accepts=never)
OLMOE = replace(
    QWEN3_MOE,
    model_types=("olmoe",),
    groups=(NORMED_HEADS, EXPERTS, channels(EXPERTS, "intermediate_size")),
    example=tiny("OlmoeForCausalLM", **{**GROUPED, "intermediate_size": 16}, num_experts=4, num_experts_per_tok=2),
)
GPT_OSS_EXPERTS = replace(
    LOCAL_EXPERTS,
    router="mlp.router",
    chosen="mlp.router.top_k",
    attributes=("mlp.router.num_experts", "mlp.experts.num_experts"),
)
GPT_OSS = replace(
    QWEN3_MOE,
    model_types=("gpt_oss",),
    groups=(
        replace(FREE_HEADS, tables=(("self_attn.sinks", 0),)),
        GPT_OSS_EXPERTS,
        channels(GPT_OSS_EXPERTS, "intermediate_size", "intermediate_size"),
    ),
    example=tiny(
        "GptOssForCausalLM", **{**WIDE_HEADS, "intermediate_size": 16}, num_local_experts=4, num_experts_per_tok=2
    ),
)
ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
UNGROUPED = replace(SOME_EXPERTS, field="n_routed_experts", when=(("n_group", 1),))
NARROWED = (channels(SOME_EXPERTS), shared("n_shared_experts"))
GLM4_MOE = replace(
    QWEN3_MOE,
    model_types=("glm4_moe",),
    groups=(replace(FREE_HEADS, bias_flag=None), DENSE_MLP, UNGROUPED, *NARROWED),
    example=tiny("Glm4MoeForCausalLM", **WIDE_HEADS, **ROUTED | {"n_shared_experts": 2}),
    impossible={"experts": GROUPS},
    depth_field=None,  # the first layers have no experts, and the config counts them
)
LATENTS = {
    **ROUTED,
    "first_k_dense_replace": 2,
    "num_key_value_heads": 8,
    "kv_lora_rank": 8,
    "q_lora_rank": None,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 4,
}
DEEPSEEK_V3 = replace(
    QWEN3_MOE,
    model_types=("deepseek_v3",),
    groups=(DENSE_MLP, UNGROUPED, *NARROWED),
    example=tiny("DeepseekV3ForCausalLM", **GROUPED | LATENTS),
    impossible={"experts": GROUPS, "heads": LATENT},
    depth_field=None,
)
DEEPSEEK_V2 = replace(
    DEEPSEEK_V3,
    model_types=("deepseek_v2",),
    groups=(DENSE_MLP, replace(UNGROUPED, when=(("topk_method", "greedy"),)), *NARROWED),
    example=tiny("DeepseekV2ForCausalLM", **GROUPED | LATENTS),
)
DOTS1 = replace(
    GLM4_MOE,
    model_types=("dots1",),
    groups=(FREE_HEADS, DENSE_MLP, UNGROUPED, *NARROWED),
    example=tiny("Dots1ForCausalLM", **WIDE_HEADS, **ROUTED),
)
EXAONE_MOE = replace(
    GLM4_MOE,
    model_types=("exaone_moe",),
    groups=(
        FREE_HEADS,
        DENSE_MLP,
        replace(UNGROUPED, field="num_experts"),
        channels(SOME_EXPERTS),
        shared("num_shared_experts"),
    ),
    example=tiny(
        "ExaoneMoeForCausalLM",
        **WIDE_HEADS,
        **FEW,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        num_shared_experts=1,
    ),
)
PHI_EXPERTS = replace(GPT_OSS_EXPERTS, attributes=("mlp.experts.num_experts",))
PHIMOE = replace(
    MIXTRAL,
    model_types=("phimoe",),
    groups=(
        FREE_HEADS,
        PHI_EXPERTS,
        channels(PHI_EXPERTS, "intermediate_size"),
    ),
    example=tiny("PhimoeForCausalLM", **{**WIDE_HEADS, "intermediate_size": 16}, num_local_experts=4),
)
MINIMAX_M2 = replace(
    OLMOE,
    model_types=("minimax_m2",),
    groups=(
        replace(NORMED_HEADS, bias_flag=None),
        replace(LOCAL_EXPERTS, beside=(("mlp.e_score_correction_bias", 0),)),
        channels(LOCAL_EXPERTS, "intermediate_size"),
    ),
    example=tiny(
        "MiniMaxM2ForCausalLM", **{**WIDE_HEADS, "intermediate_size": 16}, num_local_experts=4, num_experts_per_tok=2
    ),
)
ERNIE_MOE = replace(
    GLM4_MOE,
    model_types=("ernie4_5_moe",),
    groups=(
        replace(FREE_HEADS, bias_flag="use_bias"),
        DENSE_MLP,
        replace(SOME_EXPERTS, field="moe_num_experts", beside=(("mlp.gate.moe_statics.e_score_correction_bias", 1),)),
        channels(SOME_EXPERTS),
        shared("moe_num_shared_experts", "use_bias"),
    ),
    example=tiny(
        "Ernie4_5_MoeForCausalLM",
        **WIDE_HEADS,
        moe_num_experts=4,
        moe_k=2,
        moe_intermediate_size=16,
        moe_layer_start_index=1,
    ),
)
SPECS = (
    QWEN3_MOE,
    MIXTRAL,
    QWEN2_MOE,
    GRANITEMOE,
    OLMOE,
    GPT_OSS,
    GLM4_MOE,
    DEEPSEEK_V3,
    DEEPSEEK_V2,
    DOTS1,
    EXAONE_MOE,
    PHIMOE,
    MINIMAX_M2,
    ERNIE_MOE,
)
