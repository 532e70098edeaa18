"""GPT-2: fused projections in transposed linear layers. The config derives the head size: heads need the table."""

from __future__ import annotations

from optimum_grail.architectures._rigid import NO_POSITIONS
from optimum_grail.architectures._tiny import DECODER, tiny
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, Strip, never

GPT2_MLP = Mlp(
    produce=("mlp.c_fc",),
    consume="mlp.c_proj",
    stream="@block",
    field="n_inner",
    default=lambda config: 4 * int(config.n_embd),
)
tiny_gpt2 = tiny("GPT2LMHeadModel", **DECODER, n_positions=64)
GPT2 = ArchitectureSpec(
    model_types=("gpt2",),
    blocks=("h.*",),
    groups=(
        Heads(
            rigid=NO_POSITIONS,
            query=Strip("attn.c_attn", 0, 3),
            key=Strip("attn.c_attn", 1, 3),
            value=Strip("attn.c_attn", 2, 3),
            out="attn.c_proj",
            stream="ln_2",
            head_dim="attn.head_dim",
            attributes=(("attn.num_heads", "query"), ("attn.split_size", "width")),
            query_field="n_head",
            accepts=never,
        ),
        GPT2_MLP,
    ),
    example=tiny_gpt2,
    mask="attention_mask",
    depth_field="n_layer",
    depth_when=(("scale_attn_by_inverse_layer_idx", False),),
)
SPECS = (GPT2,)
