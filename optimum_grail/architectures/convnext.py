"""ConvNeXt, both versions: a feed-forward pair of linear layers behind a depthwise convolution; downsampling between
stages. The config knows only the residual widths: table always.

Version 2 has no layer scale, and a norm over all feed-forward channels: narrowing is only nearly the same there as
setting to zero.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from optimum_grail.architectures._tiny import tiny
from optimum_grail.core.spec import ArchitectureSpec, Mlp

SIZES: dict[str, Any] = {
    "hidden_sizes": [8, 16],
    "depths": [2, 2],
    "num_stages": 2,
    "image_size": 32,
    "initializer_range": 0.2,
    "num_labels": 5,
}
tiny_convnext = tiny("ConvNextForImageClassification", **SIZES, layer_scale_init_value=0.5)
"""Two stages of two layers with 32 and 64 FFN channels, 32 x 32 images, 5 classes."""
tiny_convnextv2 = tiny("ConvNextV2ForImageClassification", **SIZES)
MLP = Mlp(produce=("pwconv1",), consume="pwconv2", stream="@block", field="channels", factor="layer_scale_parameter")
CONVNEXT = ArchitectureSpec(
    model_types=("convnext",),
    blocks=("encoder.stages.*.layers.*",),
    chain="container",
    groups=(MLP,),
    example=tiny_convnext,
    main_input="image",
    classifiers=("classifier",),
)
CONVNEXTV2 = replace(
    CONVNEXT,
    model_types=("convnextv2",),
    groups=(replace(MLP, factor=None, channelwise=("grn",), mixes=True),),
    example=tiny_convnextv2,
)
SPECS = (CONVNEXT, CONVNEXTV2)
