"""GPT-NeoX and Pythia: query, key and value of each head side by side in one projection.

Attention and feed-forward layer are side by side or one after the other. The config derives the head size: heads need
the table.
"""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import DECODER, tiny
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, Strip, never

SIZES = {**DECODER, "intermediate_size": 48, "max_position_embeddings": 64, "rotary_pct": 0.5}
NEOX_HEADS = Heads(
    query=Strip("attention.query_key_value", 0, 3, interleaved=True),
    key=Strip("attention.query_key_value", 1, 3, interleaved=True),
    value=Strip("attention.query_key_value", 2, 3, interleaved=True),
    out="attention.dense",
    stream="@block",
    head_dim="attention.head_size",
    accepts=never,
    when=(("use_parallel_residual", True),),
)
tiny_sequential_gpt_neox = tiny("GPTNeoXForCausalLM", **SIZES, use_parallel_residual=False)
GPT_NEOX = ArchitectureSpec(
    model_types=("gpt_neox",),
    blocks=("layers.*",),
    groups=(
        NEOX_HEADS,
        replace(NEOX_HEADS, stream="post_attention_layernorm", when=(("use_parallel_residual", False),)),
        Mlp(produce=("mlp.dense_h_to_4h",), consume="mlp.dense_4h_to_h", stream="@block"),
    ),
    example=tiny("GPTNeoXForCausalLM", **SIZES),
    mask="attention_mask",
    depth_field="num_hidden_layers",
)
SPECS = (GPT_NEOX,)
