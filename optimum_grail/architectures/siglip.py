"""SigLIP and SigLIP 2: CLIP's layer in a text and a vision tower, each described by its own sub-config.

The text tower is read at its last token, padding or not, so that padding counts as real: there is no mask. The vision
tower of SigLIP 2 with images of any shape takes patches, and what tells the real ones, instead of images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from optimum_grail.architectures._tiny import tiny
from optimum_grail.architectures.clip import CLIP_TEXT, CLIP_VISION, GROUPS

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
TEXT: dict[str, Any] = {"vocab_size": 96, "max_position_embeddings": 64, "projection_size": 16}
TOKENS: dict[str, Any] = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
tiny_siglip_text = tiny("SiglipTextModel", **SIZES, **TEXT, **TOKENS)
"""Two layers, 4 heads of 8 dimensions, 48 FFN channels."""
tiny_siglip_vision = tiny("SiglipVisionModel", **SIZES, image_size=16, patch_size=4)
tiny_siglip_headless = tiny("SiglipVisionModel", **SIZES, image_size=16, patch_size=4, vision_use_head=False)
tiny_siglip2_text = tiny("Siglip2TextModel", **SIZES, **TEXT, **TOKENS)
tiny_siglip2_vision = tiny("Siglip2VisionModel", **SIZES, num_patches=16, patch_size=2)
tiny_siglip = tiny(
    "SiglipModel",
    text_config={**SIZES, **TEXT, **TOKENS, "projection_size": 32},
    vision_config={**SIZES, "image_size": 16, "patch_size": 4},
)


def patches() -> dict[str, Tensor]:
    """Two images of 12 and 16 patches of 12 numbers."""
    mask = torch.ones(2, 16, dtype=torch.int64)
    mask[0, 12:] = 0
    return {
        "pixel_values": torch.randn(2, 16, 12, generator=torch.Generator().manual_seed(1)),
        "pixel_attention_mask": mask,
        "spatial_shapes": torch.tensor([[3, 4], [4, 4]]),
    }


def is_headless(config: Any, values: Mapping[str, int]) -> bool:
    """The head that pools the vision tower's tokens has a feed-forward pair of the layers' width, which stays."""
    return not config.vision_use_head


VISION_GROUPS = (GROUPS[0], replace(GROUPS[1], accepts=is_headless))
SIGLIP_TEXT = replace(
    CLIP_TEXT, model_types=("siglip_text_model",), example=tiny_siglip_text, mask=None, classifiers=("head",)
)
SIGLIP_VISION = replace(
    CLIP_VISION,
    model_types=("siglip_vision_model",),
    groups=VISION_GROUPS,
    example=tiny_siglip_vision,
    classifiers=("classifier",),
)
SIGLIP2_TEXT = replace(SIGLIP_TEXT, model_types=("siglip2_text_model",), example=tiny_siglip2_text)
SIGLIP2_VISION = replace(
    SIGLIP_VISION,
    model_types=("siglip2_vision_model",),
    example=tiny_siglip2_vision,
    mask="pixel_attention_mask",
    inputs=patches,
)
SPECS = (SIGLIP_TEXT, SIGLIP_VISION, SIGLIP2_TEXT, SIGLIP2_VISION)
