"""ResNet: inner channels of basic and bottleneck blocks. The config knows only the residual widths: table always."""

from __future__ import annotations

from torch import nn

from optimum_grail.architectures._tiny import seeded
from optimum_grail.core.spec import ArchitectureSpec, Conv


def _tiny(**config: object) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return seeded(lambda: ResNetForImageClassification(ResNetConfig(embedding_size=8, num_labels=5, **config)))


def tiny_bottleneck() -> nn.Module:
    """Two stages of two bottleneck blocks with 8 and 12 inner channels, 32 x 32 images."""
    return _tiny(layer_type="bottleneck", hidden_sizes=[32, 48], depths=[2, 2])


def tiny_basic() -> nn.Module:
    """Two stages of two basic blocks with 8 and 12 channels, 32 x 32 images."""
    return _tiny(layer_type="basic", hidden_sizes=[8, 12], depths=[2, 2])


RESNET = ArchitectureSpec(
    model_types=("resnet",),
    blocks=("encoder.stages.*.layers.*",),
    groups=(
        Conv(
            block_class="ResNetBasicLayer",
            produce="layer.0.convolution",
            channelwise=("layer.0.normalization",),
            consume="layer.1.convolution",
            consume_norm="layer.1.normalization",
            stream="activation",
        ),
        Conv(
            block_class="ResNetBottleNeckLayer",
            name="conv1",
            produce="layer.0.convolution",
            channelwise=("layer.0.normalization",),
            consume="layer.1.convolution",
            consume_norm="layer.1.normalization",
            stream=None,
        ),
        Conv(
            block_class="ResNetBottleNeckLayer",
            name="conv2",
            stage=1,
            produce="layer.1.convolution",
            channelwise=("layer.1.normalization",),
            consume="layer.2.convolution",
            consume_norm="layer.2.normalization",
            stream="activation",
        ),
    ),
    example=tiny_bottleneck,
    main_input="image",
    classifiers=("classifier.1",),
)
SPECS = (RESNET,)
