"""DINOv2, with registers or without, and DINOv3: pre-LayerNorm image encoders with layer scale.

The configs of DINOv2 tell the feed-forward width as a ratio, that of DINOv3 derives the head size from the number of
heads: such widths need the table. Whole layers cannot go: the configs name one of them as the backbone's output, and
cannot be read when there are fewer.
"""

from __future__ import annotations

from dataclasses import replace

from optimum_grail.architectures._tiny import tiny
from optimum_grail.architectures.vit import HEADS, SIZES, VIT
from optimum_grail.core.spec import Mlp, never

RATIO = {name: value for name, value in SIZES.items() if name != "intermediate_size"} | {"layerscale_value": 0.5}
tiny_dinov2 = tiny("Dinov2ForImageClassification", **RATIO, mlp_ratio=2)
"""Three layers, 4 heads of 8 dimensions, 64 FFN channels, 16 x 16 images in 4 x 4 patches, 5 classes."""
tiny_dinov2_registers = tiny("Dinov2WithRegistersModel", **RATIO, mlp_ratio=2, num_register_tokens=2)
tiny_dinov2_giant = tiny("Dinov2Model", **RATIO, mlp_ratio=2, use_swiglu_ffn=True)
"""Gated, 48 FFN channels."""
tiny_dinov3 = tiny("DINOv3ViTModel", **SIZES, layerscale_value=0.5, num_register_tokens=2, key_bias=False)
tiny_dinov3_gated = tiny("DINOv3ViTModel", **SIZES, layerscale_value=0.5, use_gated_mlp=True)
DINOV2_HEADS = replace(HEADS, stream="norm2", factor="layer_scale1.lambda1")
DINOV2_MLP = Mlp(
    produce=("mlp.fc1",),
    consume="mlp.fc2",
    stream="@block",
    field="channels",
    factor="layer_scale2.lambda1",
    when=(("use_swiglu_ffn", False),),
)
GATED = replace(
    DINOV2_MLP,
    produce=("mlp.gate_proj", "mlp.up_proj"),
    consume="mlp.down_proj",
    when=(("use_swiglu_ffn", True),),
)
DINOV2 = replace(
    VIT,
    model_types=("dinov2",),
    blocks=("encoder.layer.*",),
    groups=(DINOV2_HEADS, DINOV2_MLP, GATED),
    example=tiny_dinov2,
    depth_field=None,
)
DINOV2_REGISTERS = replace(DINOV2, model_types=("dinov2_with_registers",), example=tiny_dinov2_registers)
DINOV3 = replace(
    DINOV2,
    model_types=("dinov3_vit",),
    blocks=("model.layer.*",),
    groups=(
        replace(
            DINOV2_HEADS,
            attributes=(("attention.num_heads", "query"),),
            pinned=(),
            accepts=never,
        ),
        replace(
            DINOV2_MLP,
            produce=("mlp.up_proj",),
            consume="mlp.down_proj",
            field="intermediate_size",
            attributes=("mlp.intermediate_size",),
            when=(("use_gated_mlp", False),),
        ),
        replace(
            GATED,
            field="intermediate_size",
            attributes=("mlp.intermediate_size",),
            when=(("use_gated_mlp", True),),
        ),
    ),
    example=tiny_dinov3,
)
SPECS = (DINOV2, DINOV2_REGISTERS, DINOV3)
