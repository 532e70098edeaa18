"""SegFormer: attention over reduced keys and values, a depthwise convolution in the feed-forward pair; patches are
merged between stages. Its config tells head counts and widths per stage: table always."""

from __future__ import annotations

from optimum_grail.architectures._tiny import tiny
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp

tiny_segformer = tiny(
    "SegformerForImageClassification",
    num_encoder_blocks=2,
    depths=[2, 1],
    sr_ratios=[2, 1],
    hidden_sizes=[16, 32],
    patch_sizes=[3, 3],
    strides=[2, 2],
    num_attention_heads=[2, 4],
    mlp_ratios=[2, 2],
    initializer_range=0.2,
    image_size=32,
    num_labels=5,
)
"""Stages of two layers and one, 2 and 4 heads of 8 dimensions, 32 and 64 FFN channels, 32 x 32 images, 5 classes."""
SEGFORMER = ArchitectureSpec(
    model_types=("segformer",),
    blocks=("stages.*.blocks.*",),
    chain="container",
    groups=(
        Heads(
            query="attention.q_proj",
            key="attention.k_proj",
            value="attention.v_proj",
            out="attention.o_proj",
            stream="layernorm_after",
            head_dim="attention.head_dim",
            attributes=(("attention.num_attention_heads", "query"),),
            query_field="heads",
        ),
        Mlp(
            produce=("mlp.fc1",),
            consume="mlp.fc2",
            stream="@block",
            field="channels",
            channelwise=("mlp.dwconv.dwconv",),
        ),
    ),
    example=tiny_segformer,
    main_input="image",
    classifiers=("classifier",),
)
SPECS = (SEGFORMER,)
