"""The map language on tiny models of other families: fused projections, channelwise modules, factors, chains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from optimum_grail import check_map
from optimum_grail.architectures._tiny import seeded
from optimum_grail.architectures.llama import HEADS, MLP
from optimum_grail.core.spec import ArchitectureSpec, Conv, Heads, Mlp, Strip, never
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import config_updates, expressible, write_config_
from optimum_grail.models.surgery import narrow_

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
FOUND = {
    "gpt2": ({"heads": 2, "mlp": 2}, ("mlp",), ()),
    "phi3": ({"heads": 2, "mlp": 2}, ("heads", "mlp"), ()),
    "neox": ({"heads": 2, "mlp": 2}, ("mlp",), ()),
    "olmo2": ({"heads": 2, "mlp": 2}, ("heads", "mlp"), ("heads",)),
    "convnext": ({"mlp": 4}, (), ()),
    "segformer": ({"mlp": 3}, (), ()),
    "t5": ({"mlp": 4}, ("mlp",), ()),
}


@pytest.mark.parametrize("name", MAPS)
def test_every_law_holds(name: str) -> None:
    report = check_map(MAPS[name])
    assert (report.groups, report.standalone, report.inexact) == FOUND[name]


def heads_of(spec: ArchitectureSpec, **changes: Any) -> ArchitectureSpec:
    """The map with another declaration of its heads."""
    return replace(spec, groups=(replace(spec.groups[0], **changes), *spec.groups[1:]))


def mlp_of(spec: ArchitectureSpec, **changes: Any) -> ArchitectureSpec:
    """The map with another declaration of its feed-forward pair."""
    return replace(spec, groups=(*spec.groups[:-1], replace(spec.groups[-1], **changes)))


def test_parts_of_one_projection_lie_one_behind_the_other() -> None:
    heads, mlp = resolve(PHI3.example(), PHI3).of_block("model.layers.0")
    assert [(port.offset, port.span) for port in heads.producers] == [(0, 16), (32, 8), (48, 8)]
    assert [(port.offset, port.span) for port in mlp.producers] == [(0, 1), (48, 1)]
    assert heads.units == 2 and heads.cached == 16


def test_interleaved_parts_are_one_strip() -> None:
    (port,) = resolve(NEOX.example(), NEOX).groups[0].producers
    assert (port.offset, port.span) == (0, 24)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (heads_of(GPT2, key=Strip("attn.c_attn", 1, 4)), "contradict each other"),
        (heads_of(GPT2, key="attn.c_proj", value="attn.c_proj"), "both own elements of transformer.h.0.attn.c_proj"),
        (mlp_of(PHI3, produce=(Strip("mlp.gate_up_proj", 0, 2, interleaved=True),)), "without the others"),
        (mlp_of(PHI3, produce=(Strip("mlp.gate_up_proj", 2, 2),)), "contradict each other"),
        (mlp_of(PHI3, produce=(Strip("mlp.gate_up_proj", 0, 3),)), "width 96, expected 144"),
        (mlp_of(SEGFORMER, channelwise=("mlp.fc1",)), "calls segformer.*mlp.fc1 channelwise, but it is a Linear"),
        (heads_of(OLMO2, mixes=False), r"self_attn.q_norm \(Olmo2RMSNorm\) normalises over all units.*mixes=True"),
        (mlp_of(CONVNEXT, factor="pwconv1.bias"), "expecting a parameter of 8 numbers"),
        (replace(T5, depth_field="num_layers"), "4 chains of blocks and one depth_field"),
        (replace(CONVNEXT, groups=(Conv("dwconv", "pwconv1", None),)), "dwconv.*channelwise"),
    ],
)
def test_maps_that_do_not_fit(spec: ArchitectureSpec, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        check_map(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (replace(GPT2, example=None), "no example"),
        (heads_of(OLMO2, channelwise=()), r"code of model.layers.0.self_attn.q_norm fails.*channelwise"),
        (heads_of(GPT2, attributes=()), r"code of transformer.h.0.attn fails.*attributes"),
        (heads_of(PHI3, attributes=(("self_attn.num_key_value_heads", "key_value"),)), "self_attn"),
        (
            heads_of(
                NEOX,
                **{name: Strip("attention.query_key_value", i, 3) for i, name in enumerate(("query", "key", "value"))},
            ),
            "not the same as setting them to zero",
        ),
        (mlp_of(GPT2, field="n_embd", default=None), "expressible, but with"),
        (mlp_of(SEGFORMER, channelwise=()), r"code of segformer.stages.0.blocks.0.mlp.dwconv.dwconv fails"),
    ],
)
def test_the_first_law_that_fails_names_the_module(spec: ArchitectureSpec, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        check_map(spec)


def test_a_width_that_the_config_leaves_open() -> None:
    model = GPT2.example()
    layout = resolve(model, GPT2)
    names = [group.name for group in layout.groups if group.kind == "mlp"]
    assert model.config.n_inner is None and expressible(model, layout, layout.group(names[0]), 64)
    (update,) = config_updates(model, layout, {})
    assert not update.fields and not update.layers
    (update,) = config_updates(model, layout, dict.fromkeys(names, 17))
    assert update.fields == {"n_inner": 17} and not update.layers
    (update,) = config_updates(model, layout, {names[1]: 17})
    assert update.layers == {"1": {"n_inner": 17}}, "the layer that stays whole is not in the table"


def test_one_width_for_all_layers_where_the_forward_reads_the_config() -> None:
    model = PHI3.example()
    layout = resolve(model, PHI3)
    first, second = (group for group in layout.groups if group.kind == "heads")
    assert first.uniform == second.uniform and first.fewest == 1
    narrow_(model, first, 1)
    own = [layer.self_attn.config.num_attention_heads for layer in model.model.layers]
    assert own == [2, 4] and model.config.num_attention_heads == 4
    model(torch.arange(3, 9)[None])
    with pytest.raises(ArchitectureError, match="one config for all layers"):
        write_config_(model, layout, {})
    narrow_(model, second, 1)
    write_config_(model, layout, {})
    assert model.config.num_attention_heads == 2
    assert all(layer.self_attn.config is model.config for layer in model.model.layers)


def test_chains_end_at_their_container_and_come_in_order() -> None:
    layout = resolve(T5.example(), T5)
    assert [stack.name for stack in layout.stacks] == [
        "encoder.block.0.layer",
        "encoder.block.1.layer",
        "decoder.block.0.layer",
        "decoder.block.1.layer",
    ]
    assert layout.stacks[2].after == ("encoder.block.0.layer", "encoder.block.1.layer")
    (owner,) = layout.owners
    assert owner.layers[2] == "decoder.block.0.layer.2"
    assert [len(layout.of_stack(stack)) for stack in layout.stacks] == [1, 1, 1, 1]


def test_groups_of_one_pattern_only() -> None:
    mlp = T5.groups[0]
    assert isinstance(mlp, Mlp)
    spec = replace(T5, groups=(replace(mlp, within="decoder.block.*.layer.2"),))
    assert list(resolve(T5.example(), spec).widths) == ["decoder.block.0.layer.2.mlp", "decoder.block.1.layer.2.mlp"]
