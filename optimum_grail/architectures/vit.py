"""ViT and the image encoders that share its layer: pre-LayerNorm; their attention reads ``head_dim`` from the config if
it is there.

Whole layers of BEiT cannot go: its config names one of them as the backbone's output, and cannot be read when there are
fewer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from optimum_grail.architectures._rigid import NO_POSITIONS
from optimum_grail.architectures._tiny import tiny
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
    "initializer_range": 0.2,
    "num_labels": 5,
}
tiny_vit = tiny("ViTForImageClassification", **SIZES)
"""Three layers, 4 heads of 8 dimensions, 48 FFN channels, 16 x 16 images in 4 x 4 patches, 5 classes."""
tiny_deit = tiny("DeiTForImageClassification", **SIZES)
tiny_beit = tiny(
    "BeitForImageClassification", **SIZES, use_relative_position_bias=True, layer_scale_init_value=0.5, head_dim=8
)
tiny_beit_plain = tiny("BeitModel", **SIZES, layer_scale_init_value=0.0, use_absolute_position_embeddings=True)
HEADS = Heads(
    rigid=NO_POSITIONS,
    query="attention.q_proj",
    key="attention.k_proj",
    value="attention.v_proj",
    out="attention.o_proj",
    stream="layernorm_after",
    head_dim="attention.head_dim",
    attributes=(("attention.num_attention_heads", "query"),),
    pinned=(("head_dim", "attention.head_dim"),),
)
MLP = Mlp(produce=("mlp.fc1",), consume="mlp.fc2", stream="@block")
VIT = ArchitectureSpec(
    model_types=("vit", "vit_msn", "ijepa"),
    blocks=("layers.*",),
    groups=(HEADS, MLP),
    example=tiny_vit,
    main_input="image",
    depth_field="num_hidden_layers",
    classifiers=("classifier",),
)
DEIT = replace(
    VIT,
    model_types=("deit",),
    example=tiny_deit,
    classifiers=("classifier", "cls_classifier", "distillation_classifier"),
)
BEIT = replace(
    VIT,
    model_types=("beit",),
    groups=(
        replace(
            HEADS,
            factor="lambda_1",
            tables=(("relative_position_bias.relative_position_bias_table", 1),),
        ),
        replace(MLP, factor="lambda_2"),
    ),
    example=tiny_beit,
    depth_field=None,
)
SPECS = (VIT, DEIT, BEIT)
