"""Swin: attention in windows, each head with a bias by distance; downsampling between stages.

Its config tells head counts and feed-forward widths per stage: table always. Attention sees its tokens window by
window, in another order than the residual stream, so its consumer is fitted to its own outputs.
"""

from __future__ import annotations

from optimum_grail.architectures._tiny import tiny
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp

tiny_swin = tiny(
    "SwinForImageClassification",
    image_size=32,
    patch_size=4,
    embed_dim=16,
    depths=[2, 2],
    num_heads=[2, 4],
    window_size=4,
    mlp_ratio=2.0,
    num_labels=5,
    initializer_range=0.2,
)
"""Two stages of two layers, 2 and 4 heads of 8 dimensions, 32 and 64 FFN channels, shifted windows of 4 x 4."""
SWIN = ArchitectureSpec(
    model_types=("swin",),
    blocks=("encoder.layers.*.blocks.*",),
    chain="container",
    groups=(
        Heads(
            query="attention.q_proj",
            key="attention.k_proj",
            value="attention.v_proj",
            out="attention.o_proj",
            stream=None,
            head_dim="attention.head_dim",
            attributes=(("attention.num_attention_heads", "query"),),
            query_field="heads",
            tables=(("attention.relative_position_bias.relative_position_bias_table", 1),),
        ),
        Mlp(produce=("mlp.fc1",), consume="mlp.fc2", stream="@block", field="channels"),
    ),
    example=tiny_swin,
    main_input="image",
    classifiers=("classifier",),
)
SPECS = (SWIN,)
