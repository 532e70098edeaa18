"""Maps that use one thing each of the language of maps, on tiny models of two layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from optimum_grail.architectures import gpt2, gpt_neox, olmo, phi3
from optimum_grail.architectures._tiny import tiny
from optimum_grail.core.spec import ArchitectureSpec, Mlp, never

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


GPT2 = replace(
    gpt2.GPT2,
    example=tiny(
        "GPT2LMHeadModel", vocab_size=96, n_positions=32, n_embd=16, n_layer=2, n_head=4, initializer_range=0.2
    ),
)
PHI3 = replace(phi3.PHI3, example=tiny("Phi3ForCausalLM", **SIZES, max_position_embeddings=64))
NEOX = replace(gpt_neox.GPT_NEOX, example=tiny("GPTNeoXForCausalLM", **SIZES, max_position_embeddings=64))
OLMO2 = replace(olmo.OLMO2, example=tiny("Olmo2ForCausalLM", **SIZES))
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
