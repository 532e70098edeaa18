"""ViT: pre-LayerNorm image encoder; its attention reads ``head_dim`` from the config if it is there."""

from __future__ import annotations

from torch import nn

from optimum_grail.architectures._tiny import seeded
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp


def tiny_vit() -> nn.Module:
    """Three layers, 4 heads of 8 dimensions, 48 FFN channels, 16 x 16 images in 4 x 4 patches, 5 classes."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=16,
        patch_size=4,
        initializer_range=0.2,
        num_labels=5,
    )
    return seeded(lambda: ViTForImageClassification(config))


VIT = ArchitectureSpec(
    model_types=("vit",),
    blocks=("layers.*",),
    groups=(
        Heads(
            query="attention.q_proj",
            key="attention.k_proj",
            value="attention.v_proj",
            out="attention.o_proj",
            stream="layernorm_after",
            head_dim="attention.head_dim",
            attributes=(("attention.num_attention_heads", "query"),),
            pinned=(("head_dim", "attention.head_dim"),),
        ),
        Mlp(produce=("mlp.fc1",), consume="mlp.fc2", stream="@block"),
    ),
    example=tiny_vit,
    main_input="image",
    depth_field="num_hidden_layers",
    classifiers=("classifier",),
)
SPECS = (VIT,)
