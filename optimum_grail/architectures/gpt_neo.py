"""GPT-Neo: GPT-2's layer with separate projections, every second attention of a few tokens' reach."""

from __future__ import annotations

from optimum_grail.architectures._tiny import DECODER, tiny
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, never

GPT_NEO = ArchitectureSpec(
    model_types=("gpt_neo",),
    blocks=("h.*",),
    groups=(
        Heads(
            query="attn.attention.q_proj",
            key="attn.attention.k_proj",
            value="attn.attention.v_proj",
            out="attn.attention.out_proj",
            stream="ln_2",
            head_dim="attn.attention.head_dim",
            attributes=(("attn.attention.num_heads", "query"),),
            query_field="num_heads",
            accepts=never,
        ),
        Mlp(
            produce=("mlp.c_fc",),
            consume="mlp.c_proj",
            stream="@block",
            default=lambda config: 4 * int(config.hidden_size),
        ),
    ),
    example=tiny(
        "GPTNeoForCausalLM",
        **DECODER,
        max_position_embeddings=64,
        attention_types=[[["global", "local"], 1], [["global"], 1]],
        window_size=6,
    ),
    mask="attention_mask",
)
SPECS = (GPT_NEO,)
