"""What the maps find in models of the sizes that their config classes have by default: as large as real ones, without
any weights."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from optimum_grail.models.layout import Layout
from optimum_grail.models.resolve import resolve

Sizes = dict[tuple[str, int], int]


def built(name: str, **config: object) -> nn.Module:
    kind = getattr(transformers, name)
    with torch.device("meta"):
        return kind(kind.config_class(**config))


def sizes(layout: Layout) -> Sizes:
    """How many groups of each name and number of units there are."""
    found: Sizes = {}
    for group in layout.groups:
        key = layout.specs[group.name].name, group.units
        found[key] = found.get(key, 0) + 1
    return found


ENCODER: Sizes = {("heads", 12): 12, ("mlp", 3072): 12}
BOTH: Sizes = {("heads", 16): 24, ("cross", 16): 12, ("mlp", 4096): 24}
CASES: list[tuple[str, dict[str, object], Sizes]] = [
    ("RobertaForMaskedLM", {}, ENCODER),
    ("XLMRobertaModel", {}, ENCODER),
    ("CamembertForTokenClassification", {}, ENCODER),
    ("Data2VecTextModel", {}, ENCODER),
    ("ElectraForPreTraining", {}, {("heads", 4): 12, ("mlp", 1024): 12}),
    ("DistilBertForMaskedLM", {}, {("heads", 12): 6, ("mlp", 3072): 6}),
    ("MPNetForMaskedLM", {}, ENCODER),
    ("DebertaV2Model", {}, {("heads", 24): 24, ("mlp", 6144): 24}),
    ("ModernBertForMaskedLM", {}, {("heads", 12): 22, ("mlp", 1152): 22}),
    ("DeiTForImageClassificationWithTeacher", {}, ENCODER),
    ("BeitForImageClassification", {"use_relative_position_bias": True}, ENCODER),
    ("Dinov2Backbone", {}, ENCODER),
    ("Dinov2Model", {"use_swiglu_ffn": True}, {("heads", 12): 12, ("mlp", 2048): 12}),
    ("Dinov2WithRegistersModel", {}, ENCODER),
    ("DINOv3ViTModel", {"use_gated_mlp": True}, {("heads", 6): 12, ("mlp", 1536): 12}),
    ("SiglipModel", {}, {("heads", 12): 24, ("mlp", 3072): 24}),
    ("Siglip2Model", {}, {("heads", 12): 24, ("mlp", 3072): 24}),
    (
        "SwinModel",
        {},
        {
            ("heads", 3): 2,
            ("mlp", 384): 2,
            ("heads", 6): 2,
            ("mlp", 768): 2,
            ("heads", 12): 6,
            ("mlp", 1536): 6,
            ("heads", 24): 2,
            ("mlp", 3072): 2,
        },
    ),
    ("ConvNextModel", {}, {("mlp", 384): 3, ("mlp", 768): 3, ("mlp", 1536): 9, ("mlp", 3072): 3}),
    ("ConvNextV2Model", {}, {("mlp", 384): 3, ("mlp", 768): 3, ("mlp", 1536): 9, ("mlp", 3072): 3}),
    (
        "SegformerForSemanticSegmentation",
        {},
        {
            ("heads", 1): 2,
            ("mlp", 128): 2,
            ("heads", 2): 2,
            ("mlp", 256): 2,
            ("heads", 5): 2,
            ("mlp", 640): 2,
            ("heads", 8): 2,
            ("mlp", 1024): 2,
        },
    ),
    (
        "MobileNetV2Model",
        {},
        {("conv", 96): 1, ("conv", 144): 2, ("conv", 192): 3, ("conv", 384): 4, ("conv", 576): 3, ("conv", 960): 3},
    ),
    ("T5ForConditionalGeneration", {}, {("heads", 8): 12, ("cross", 8): 6, ("mlp", 2048): 12}),
    ("T5EncoderModel", {"feed_forward_proj": "gated-gelu"}, {("heads", 8): 6, ("mlp", 2048): 6}),
    ("MT5Model", {}, {("heads", 6): 16, ("cross", 6): 8, ("mlp", 1024): 16}),
    ("BartForConditionalGeneration", {}, BOTH),
    ("MarianMTModel", {}, BOTH),
    ("MBartForConditionalGeneration", {}, BOTH),
    ("PegasusForConditionalGeneration", {}, BOTH),
    ("M2M100ForConditionalGeneration", {}, BOTH),
    ("BlenderbotForConditionalGeneration", {}, {("heads", 32): 26, ("cross", 32): 24, ("mlp", 10240): 26}),
    ("BlenderbotSmallModel", {}, {("heads", 16): 16, ("cross", 16): 8, ("mlp", 2048): 16}),
    ("PLBartModel", {}, {("heads", 12): 12, ("cross", 12): 6, ("mlp", 3072): 12}),
    ("WhisperForConditionalGeneration", {}, {("heads", 6): 8, ("cross", 6): 4, ("mlp", 1536): 8}),
    ("Wav2Vec2ForCTC", {}, ENCODER),
    ("Wav2Vec2Model", {"do_stable_layer_norm": True}, ENCODER),
    ("HubertForSequenceClassification", {}, ENCODER),
    ("UniSpeechModel", {}, ENCODER),
    ("UniSpeechSatModel", {"do_stable_layer_norm": True}, ENCODER),
    ("Data2VecAudioModel", {}, ENCODER),
    ("LayoutLMModel", {}, ENCODER),
    ("ErnieModel", {}, ENCODER),
    ("SplinterModel", {}, ENCODER),
    ("ViTMSNModel", {}, ENCODER),
    ("AlbertModel", {}, {("heads", 64): 1, ("mlp", 16384): 1}),
]


@pytest.mark.parametrize(("name", "config", "expected"), CASES, ids=[f"{name}{''.join(c)}" for name, c, _ in CASES])
def test_every_block_is_found(name: str, config: dict[str, object], expected: Sizes) -> None:
    layout = resolve(built(name, **config))
    assert sizes(layout) == expected
    assert {group.block for group in layout.groups} == {path for stack in layout.stacks for path in stack.blocks}
    everything = dict.fromkeys(layout.widths, 0)
    assert 0.5 < layout.removed_parameters(everything) / layout.block_parameters < 1
    mute = {group.name for group in layout.groups if not group.cost}
    assert not mute
