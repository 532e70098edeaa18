"""CLIP: the text and the vision tower, each its own stack described by its own sub-config.

The towers' configs derive the head size from the number of heads, so heads need the per-layer table.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from optimum_grail.architectures._tiny import seeded
from optimum_grail.core.spec import ArchitectureSpec, Heads, Mlp, never

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": 16,
    "initializer_range": 0.2,
    "initializer_factor": 4.0,
}
TEXT: dict[str, Any] = {
    "vocab_size": 96,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
VISION: dict[str, Any] = {"image_size": 16, "patch_size": 4}


def tiny_clip_text() -> nn.Module:
    """The text tower with its projection: two layers, 4 heads of 8 dimensions, 48 FFN channels."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    return seeded(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**SIZES, **TEXT)))


def tiny_clip_vision() -> nn.Module:
    """The vision tower with its projection: the sizes of :func:`tiny_clip_text`, 16 x 16 images."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return seeded(lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**SIZES, **VISION)))


def tiny_clip() -> nn.Module:
    """Both towers in one model."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(text_config={**SIZES, **TEXT}, vision_config={**SIZES, **VISION}, projection_dim=16)
    return seeded(lambda: CLIPModel(config))


GROUPS = (
    Heads(
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        out="self_attn.out_proj",
        stream="layer_norm2",
        head_dim="self_attn.head_dim",
        attributes=(("self_attn.num_heads", "query"),),
        accepts=never,
    ),
    Mlp(produce=("mlp.fc1",), consume="mlp.fc2", stream="@block"),
)
CLIP_TEXT = ArchitectureSpec(
    model_types=("clip_text_model",),
    blocks=("encoder.layers.*",),
    depth_field="num_hidden_layers",
    groups=GROUPS,
    example=tiny_clip_text,
    mask="attention_mask",
    classifiers=("text_projection",),
)
CLIP_VISION = ArchitectureSpec(
    model_types=("clip_vision_model", "chinese_clip_vision_model"),
    blocks=("encoder.layers.*",),
    depth_field="num_hidden_layers",
    groups=GROUPS,
    example=tiny_clip_vision,
    main_input="image",
    classifiers=("visual_projection",),
)
SPECS = (CLIP_TEXT, CLIP_VISION)
