"""MobileNet v2: what a block expands to, which a depthwise convolution filters and the last one reduces again. The
config knows only the residual widths: table always."""

from __future__ import annotations

from optimum_grail.architectures._tiny import tiny
from optimum_grail.core.spec import ArchitectureSpec, Conv

tiny_mobilenet_v2 = tiny(
    "MobileNetV2ForImageClassification",
    image_size=32,
    depth_multiplier=0.1,
    depth_divisible_by=4,
    min_depth=4,
    expand_ratio=2.0,
    output_stride=8,
    finegrained_output=False,
    hidden_act="gelu",
    initializer_range=0.42,
    num_labels=5,
)
"""16 blocks of 8 to 32 expanded channels, 32 x 32 images, 5 classes."""
MOBILENET_V2 = ArchitectureSpec(
    model_types=("mobilenet_v2",),
    blocks=("layer.*",),
    groups=(
        Conv(
            produce="expand_1x1.convolution",
            channelwise=("expand_1x1.normalization", "conv_3x3.convolution", "conv_3x3.normalization"),
            consume="reduce_1x1.convolution",
            consume_norm="reduce_1x1.normalization",
            stream="@block",
        ),
    ),
    example=tiny_mobilenet_v2,
    main_input="image",
    classifiers=("classifier",),
)
SPECS = (MOBILENET_V2,)
