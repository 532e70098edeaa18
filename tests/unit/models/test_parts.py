"""Models that hold others as parts: what a family can lose, it can lose there too, and the whole loads again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from optimum_grail import GrailCompressor, prune_heads_
from optimum_grail.architectures._tiny import WIDE_HEADS, seeded
from optimum_grail.architectures.clip import SIZES as CLIP
from optimum_grail.models.hook import install
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import write_config_
from optimum_grail.models.surgery import narrow_

install()
IMAGES = 90
VISION = {"image_size": 16, "patch_size": 4}
SIGLIP = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, **VISION}


def tiny_gemma3() -> nn.Module:
    """A Gemma 3 that sees: 16 patches, pooled to 4."""
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**WIDE_HEADS, query_pre_attn_scalar=8),
        vision_config=SiglipVisionConfig(**SIGLIP),
        mm_tokens_per_image=4,
        image_token_index=IMAGES,
        initializer_range=0.2,
    )
    return seeded(lambda: Gemma3ForConditionalGeneration(config))


def tiny_llava() -> nn.Module:
    """A LLaMA that sees through a CLIP."""
    config = LlavaConfig(
        text_config=LlamaConfig(**WIDE_HEADS),
        vision_config=CLIPVisionConfig(**CLIP, **VISION),
        image_token_index=IMAGES,
        vision_feature_layer=-1,
    )
    return seeded(lambda: LlavaForConditionalGeneration(config))


CASES = pytest.mark.parametrize(
    ("build", "tokens", "family"), [(tiny_gemma3, 4, "gemma3_text"), (tiny_llava, 16, "llama")], ids=["gemma3", "llava"]
)


def given(model: nn.Module, tokens: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Two words, an image, two words."""
    draw = torch.Generator().manual_seed(seed)
    words = torch.randint(3, IMAGES, (1, 4), generator=draw)
    found = {
        "input_ids": torch.cat([words[:, :2], torch.full((1, tokens), IMAGES), words[:, 2:]], 1),
        "pixel_values": torch.randn(1, 3, 16, 16, generator=draw),
    }
    if isinstance(model, Gemma3ForConditionalGeneration):
        found["token_type_ids"] = (found["input_ids"] == IMAGES).long()
    return found


@CASES
@torch.no_grad()
def test_the_language_model_gets_smaller_inside(
    build: Callable[[], Any], tokens: int, family: str, tmp_path: Path
) -> None:
    model = build()
    layout = resolve(model)
    (stack,) = [item for item in layout.stacks if family in item.spec.model_types]
    groups = layout.of_stack(stack)
    assert len(groups) == 6 and {group.kind for group in groups} == {"heads", "mlp"}
    before = model(**given(model, tokens)).logits
    for place, group in enumerate(groups):
        narrow_(model, group, group.units - 1 - place % 2)
    write_config_(model, layout, {})
    found = model(**given(model, tokens)).logits
    assert not torch.allclose(found, before, atol=1e-3)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(again(**given(model, tokens)).logits, found)
    assert "layers" in again.config.text_config.grail_config


@CASES
def test_images_with_texts_calibrate_all_parts(build: Callable[[], Any], tokens: int, family: str) -> None:
    model = build()
    rows = [{name: tensor[0] for name, tensor in given(model, tokens, seed).items()} for seed in range(16)]
    compressor = GrailCompressor(model, {"sparsity": 0.3, "num_samples": 16})
    compressor.compress(rows)
    assert compressor.report.achieved > 0.25
    assert {layer.mlp.down_proj.in_features for layer in model.model.language_model.layers} != {48}


@CASES
def test_heads_go_by_name(build: Callable[[], Any], tokens: int, family: str) -> None:
    model = build()
    (stack,) = [item for item in resolve(model).stacks if family in item.spec.model_types]
    prune_heads_(model, {1: [2, 3]}, stack=stack.name)
    kept = [group.units for group in resolve(model).of_stack(stack) if group.kind == "heads"]
    assert kept == [4, 3, 4]
    with torch.no_grad():
        assert bool(model(**given(model, tokens)).logits.isfinite().all())
