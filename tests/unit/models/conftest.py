"""Maps of families that the package does not have, each on a tiny model: what the language of maps is tried on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from optimum_grail.architectures._tiny import seeded
from optimum_grail.architectures.llama import HEADS, MLP
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, Strip, never

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}


def tiny(name: str, **config: Any) -> Callable[[], nn.Module]:
    """A function that builds the class ``name`` of transformers with this config."""

    def build() -> nn.Module:
        import transformers

        kind = getattr(transformers, name)
        return seeded(lambda: kind(kind.config_class(**config)))

    return build


GPT2 = ArchitectureSpec(
    model_types=("gpt2",),
    blocks=("h.*",),
    groups=(
        Heads(
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
        Mlp(
            produce=("mlp.c_fc",),
            consume="mlp.c_proj",
            stream="@block",
            field="n_inner",
            default=lambda config: 4 * config.n_embd,
        ),
    ),
    example=tiny(
        "GPT2LMHeadModel", vocab_size=96, n_positions=32, n_embd=16, n_layer=2, n_head=4, initializer_range=0.2
    ),
    mask="attention_mask",
    depth_field="n_layer",
)
PHI3 = ArchitectureSpec(
    model_types=("phi3",),
    blocks=("layers.*",),
    groups=(
        Heads(
            query=Strip("self_attn.qkv_proj", 0, 3),
            key=Strip("self_attn.qkv_proj", 1, 3),
            value=Strip("self_attn.qkv_proj", 2, 3),
            out="self_attn.o_proj",
            stream="post_attention_layernorm",
            head_dim="self_attn.head_dim",
            attributes=(
                ("self_attn.config.num_attention_heads", "query"),
                ("self_attn.num_key_value_heads", "key_value"),
            ),
            key_value_field="num_key_value_heads",
            pinned=(("head_dim", "self_attn.head_dim"),),
            uniform=True,
        ),
        Mlp(
            produce=(Strip("mlp.gate_up_proj", 0, 2), Strip("mlp.gate_up_proj", 1, 2)),
            consume="mlp.down_proj",
            stream="@block",
        ),
    ),
    example=tiny("Phi3ForCausalLM", **SIZES, max_position_embeddings=64),
    mask="attention_mask",
)
NEOX = ArchitectureSpec(
    model_types=("gpt_neox",),
    blocks=("layers.*",),
    groups=(
        Heads(
            query=Strip("attention.query_key_value", 0, 3, interleaved=True),
            key=Strip("attention.query_key_value", 1, 3, interleaved=True),
            value=Strip("attention.query_key_value", 2, 3, interleaved=True),
            out="attention.dense",
            stream="@block",
            head_dim="attention.head_size",
            accepts=never,
        ),
        Mlp(produce=("mlp.dense_h_to_4h",), consume="mlp.dense_4h_to_h", stream="@block"),
    ),
    example=tiny("GPTNeoXForCausalLM", **SIZES, max_position_embeddings=64),
    mask="attention_mask",
)
OLMO2_MLP = replace(MLP, attributes=("mlp.intermediate_size",), bias_flag=None, stream=None)
OLMO2_HEADS = replace(
    HEADS, stream=None, channelwise=("self_attn.q_norm", "self_attn.k_norm"), mixes=True, bias_flag=None
)
OLMO2 = ArchitectureSpec(
    model_types=("olmo2",),
    blocks=("layers.*",),
    groups=(OLMO2_HEADS, OLMO2_MLP),
    example=tiny("Olmo2ForCausalLM", **SIZES),
    mask="attention_mask",
)
CONVNEXT = ArchitectureSpec(
    model_types=("convnext",),
    blocks=("encoder.stages.*.layers.*",),
    chain="container",
    groups=(
        Mlp(
            produce=("pwconv1",),
            consume="pwconv2",
            stream="@block",
            field="channels",
            factor="layer_scale_parameter",
            accepts=never,
        ),
    ),
    example=tiny(
        "ConvNextForImageClassification",
        hidden_sizes=[8, 16],
        depths=[2, 2],
        num_stages=2,
        image_size=32,
        initializer_range=0.2,
    ),
    main_input="image",
)
SEGFORMER = ArchitectureSpec(
    model_types=("segformer",),
    blocks=("stages.*.blocks.*",),
    chain="container",
    groups=(
        Mlp(
            produce=("mlp.fc1",),
            consume="mlp.fc2",
            stream="@block",
            field="channels",
            channelwise=("mlp.dwconv.dwconv",),
            accepts=never,
        ),
    ),
    example=tiny(
        "SegformerForImageClassification",
        num_encoder_blocks=2,
        depths=[1, 2],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[3, 3],
        strides=[2, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        initializer_range=0.2,
        image_size=32,
    ),
    main_input="image",
)
T5_EXAMPLE = tiny(
    "T5ForConditionalGeneration",
    vocab_size=96,
    d_model=32,
    d_kv=8,
    d_ff=48,
    num_layers=2,
    num_heads=4,
    decoder_start_token_id=0,
    initializer_factor=4.0,
)
T5 = ArchitectureSpec(
    model_types=("t5",),
    blocks=("encoder.block.*.layer.1", "decoder.block.*.layer.2"),
    chain="container",
    groups=(Mlp(produce=("DenseReluDense.wi",), consume="DenseReluDense.wo", stream="@block", field="d_ff"),),
    example=T5_EXAMPLE,
    mask="attention_mask",
)
MAPS = {
    "gpt2": GPT2,
    "phi3": PHI3,
    "neox": NEOX,
    "olmo2": OLMO2,
    "convnext": CONVNEXT,
    "segformer": SEGFORMER,
    "t5": T5,
}


@pytest.fixture(name="maps")
def _maps() -> dict[str, ArchitectureSpec]:
    return MAPS


@pytest.fixture(name="change")
def _change() -> Callable[..., ArchitectureSpec]:
    """``change(name, place, **fields)``: the map ``name`` with other fields of the declaration at ``place``."""

    def changed(name: str, place: int, **fields: Any) -> ArchitectureSpec:
        groups = list(MAPS[name].groups)
        groups[place] = replace(groups[place], **fields)
        return replace(MAPS[name], groups=tuple(groups))

    return changed
