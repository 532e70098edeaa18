"""Image-text models: both towers shrink, each with its own sub-config, and load together or alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from optimum_grail.architectures.clip import tiny_clip, tiny_clip_text, tiny_clip_vision
from optimum_grail.compressor import GrailCompressor
from optimum_grail.evaluation.evaluate import evaluate_path
from optimum_grail.models.stock import compressed_with

KINDS = {"ffn_sparsity": 0.5, "head_sparsity": 0.25}


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, Tensor]]:
    """Random captions of several lengths, padded, and random images."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for index in range(40):
        length = 6 + index % 7
        ids = torch.randint(3, 96, (12,), generator=generator)
        ids[length - 1], ids[length:] = 2, 1
        mask = (torch.arange(12) < length).long()
        image = torch.randn(3, 16, 16, generator=generator)
        samples.append({"input_ids": ids, "attention_mask": mask, "pixel_values": image})
    return samples


@pytest.fixture(scope="module", params=["grail", "default"])
def tiny(request: pytest.FixtureRequest, pairs: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("clip") / "out"
    settings: dict[str, Any] = KINDS if request.param == "default" else {**KINDS, "preset": "grail"}
    compressor = GrailCompressor(tiny_clip(), settings)
    compressor.compress(pairs, folder)
    return compressor, folder


def stacked(pairs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([pair[key] for pair in pairs[:6]]) for key in pairs[0]}


def test_both_towers_shrink_and_come_back(tiny: Any, pairs: list[dict[str, Tensor]]) -> None:
    compressor, folder = tiny
    again = CLIPModel.from_pretrained(folder)
    towers = (again.config.text_config, again.config.vision_config)
    assert sum(config.intermediate_size for config in towers) == 48  # half of two times 48
    kept = [
        compressor.model.get_submodule(f"{tower}.encoder.layers.{layer}.self_attn").num_heads
        for tower in ("text_model", "vision_model")
        for layer in (0, 1)
    ]
    assert sum(kept) == 12 and len(set(kept[:2])) == len(set(kept[2:])) == 1, "a quarter of 16, one number per tower"
    ours, theirs = compressor.model(**stacked(pairs)), again(**stacked(pairs))
    assert torch.equal(ours.logits_per_image, theirs.logits_per_image)
    assert compressor.report.achieved_units == {"heads": 0.25, "mlp": 0.5}


def test_each_tower_loads_alone(tiny: Any, pairs: list[dict[str, Tensor]]) -> None:
    compressor, folder = tiny
    batch = stacked(pairs)
    images = CLIPVisionModelWithProjection.from_pretrained(folder)(batch["pixel_values"]).image_embeds
    texts = CLIPTextModelWithProjection.from_pretrained(folder)(batch["input_ids"], batch["attention_mask"])
    both = compressor.model(**batch)
    normal = torch.nn.functional.normalize
    torch.testing.assert_close(normal(images), both.image_embeds)
    torch.testing.assert_close(normal(texts.text_embeds), both.text_embeds)


@pytest.mark.parametrize(("build", "keys"), [(tiny_clip_text, 2), (tiny_clip_vision, 1)], ids=["text", "vision"])
def test_a_tower_of_its_own(
    build: Callable[[], Any], keys: int, pairs: list[dict[str, Tensor]], tmp_path: Path
) -> None:
    model = build()
    names = ("input_ids", "attention_mask") if keys == 2 else ("pixel_values",)
    samples = [{name: pair[name] for name in names} for pair in pairs]
    compressor = GrailCompressor(model, {"sparsity": 0.3})
    compressor.compress(samples, tmp_path / "out")
    again = type(model).from_pretrained(tmp_path / "out")
    batch = {name: torch.stack([sample[name] for sample in samples[:4]]) for name in names}
    assert torch.equal(again(**batch)[0], model(**batch)[0])
    assert compressed_with(again.config) is not None
    assert 0.3 - 0.01 < compressor.report.achieved < 0.31


@pytest.mark.slow
def test_real_captions_find_their_images_again(data_dir: Path, tmp_path: Path) -> None:
    """A quarter of the FFN of both towers is left, calibrated on 64 pairs; retrieval among 300 test pairs."""
    source, rows = data_dir / "clip-emoji", str(data_dir / "emoji-captions")

    def recall(folder: Path) -> float:
        found = evaluate_path(folder, rows, "retrieval", num_samples=300)
        return (found["image_to_text_r10"] + found["text_to_image_r10"]) / 2

    config: dict[str, Any] = {"allocation": "uniform", "ffn_sparsity": 0.75, "dataset": rows, "num_samples": 64}
    for name in ("none", "grail-plus"):
        compressor = GrailCompressor.from_pretrained(source, {**config, "compensator": name})
        compressor.compress(save_directory=tmp_path / name)
        assert compressor.report.standalone
        assert compressor.report.calibration.tokens > 64
    dense, plain, ours = (recall(folder) for folder in (source, tmp_path / "none", tmp_path / "grail-plus"))
    assert plain + 0.02 < ours > dense - 0.05
