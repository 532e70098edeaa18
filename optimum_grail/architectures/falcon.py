"""Falcon: queries of a group with their key and value side by side in one projection; attention and feed-forward layer
side by side. The head size is hidden_size / heads, so heads need the table."""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import DECODER, tiny
from optimum_grail.architectures.bloom import ALIBI
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, Strip, never

SIZES = {**DECODER, "ffn_hidden_size": 48, "max_position_embeddings": 64}
NEW, ROTARY = ("new_decoder_architecture", True), ("alibi", False)
FALCON_HEADS = Heads(
    query=Strip("self_attention.query_key_value", 0, 3, interleaved=True),
    key=Strip("self_attention.query_key_value", 1, 3, interleaved=True),
    value=Strip("self_attention.query_key_value", 2, 3, interleaved=True),
    out="self_attention.dense",
    stream="@block",
    head_dim="self_attention.head_dim",
    attributes=(("self_attention.num_heads", "query"), ("self_attention.num_kv_heads", "key_value")),
    key_value_field="num_kv_heads",
    accepts=never,
    when=(NEW, ROTARY),
)
tiny_multi_query_falcon = tiny("FalconForCausalLM", **SIZES)
tiny_sequential_falcon = tiny("FalconForCausalLM", **SIZES, multi_query=False, parallel_attn=False, bias=True)
FALCON = ArchitectureSpec(
    model_types=("falcon",),
    blocks=("h.*",),
    groups=(
        FALCON_HEADS,
        replace(
            FALCON_HEADS,
            stream="post_attention_layernorm",
            when=(("new_decoder_architecture", False), ("multi_query", False), ("parallel_attn", False), ROTARY),
        ),
        replace(
            FALCON_HEADS,
            key_value_field=None,
            shared=(),
            when=(("new_decoder_architecture", False), ("multi_query", True), ("parallel_attn", True), ROTARY),
        ),
        Mlp(
            produce=("mlp.dense_h_to_4h",),
            consume="mlp.dense_4h_to_h",
            stream="@block",
            field="ffn_hidden_size",
        ),
    ),
    example=tiny("FalconForCausalLM", **SIZES, new_decoder_architecture=True, num_kv_heads=4),
    mask="attention_mask",
    depth_field="num_hidden_layers",
    impossible={"heads": ALIBI},
)
SPECS = (FALCON,)
