"""GPT-J and CodeGen: attention and feed-forward layer side by side; the head size is hidden_size / heads, so heads need
the table."""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import DECODER, tiny
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, never

SIZES = {**DECODER, "n_positions": 64, "rotary_dim": 2}
GPTJ_MLP = Mlp(
    produce=("mlp.fc_in",),
    consume="mlp.fc_out",
    stream="@block",
    field="n_inner",
    default=lambda config: 4 * int(config.n_embd),
)
GPTJ = ArchitectureSpec(
    model_types=("gptj",),
    blocks=("h.*",),
    groups=(
        Heads(
            query="attn.q_proj",
            key="attn.k_proj",
            value="attn.v_proj",
            out="attn.out_proj",
            stream="@block",
            head_dim="attn.head_dim",
            attributes=(("attn.num_attention_heads", "query"),),
            query_field="n_head",
            accepts=never,
        ),
        GPTJ_MLP,
    ),
    example=tiny("GPTJForCausalLM", **SIZES),
    mask="attention_mask",
    depth_field="n_layer",
)
CODEGEN = replace(
    GPTJ,
    model_types=("codegen",),
    groups=(GPTJ_MLP,),
    example=tiny("CodeGenForCausalLM", **SIZES),
    impossible={
        "heads": "Queries, keys and values lie in four pieces that the code counts on, each with a part of the heads."
    },
)
SPECS = (GPTJ, CODEGEN)
