"""Image models trained here within seconds on scikit-learn's digits: a ViT and both kinds of ResNet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import DataError

TRAINED = 1400
CALIBRATED = 256
CLASSES = 10
METHODS: dict[str, dict[str, Any]] = {
    "none": {"compensator": "none"},
    "grail": {"compensator": "grail", "within_block": "joint"},
    "grail-plus": {},
}


@dataclass(frozen=True)
class Digits:
    """1,797 images of handwritten digits, float32 ``[1, size, size]`` around zero, and their labels."""

    images: Tensor
    labels: Tensor

    def at(self, size: int) -> Tensor:
        """The images, enlarged to ``size`` pixels."""
        return self.images if size == 8 else nn.functional.interpolate(self.images, size=size, mode="bilinear")


@pytest.fixture(scope="module")
def digits() -> Digits:
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(found.images, dtype=torch.float32)[order, None] / 8 - 1
    return Digits(images, torch.tensor(found.target)[order])


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, rate: float) -> nn.Module:
    """``model``, after AdamW with a decaying rate on the first images."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * (TRAINED // 100))
    model.train()
    for _ in range(epochs):
        for part in torch.randperm(TRAINED, generator=generator).split(100):
            model(pixel_values=images[part], labels=labels[part]).loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return model.eval()


@torch.inference_mode()
def accuracy(model: Any, images: Tensor, labels: Tensor) -> float:
    """On the images that were not trained on."""
    guesses = model(pixel_values=images[TRAINED:]).logits.argmax(1)
    return float((guesses == labels[TRAINED:]).float().mean())


def build_vit() -> nn.Module:
    sizes = {"image_size": 8, "patch_size": 2, "hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4}
    return ViTForImageClassification(ViTConfig(**sizes, num_hidden_layers=3, num_channels=1, num_labels=CLASSES))


def build_resnet(layer_type: str) -> nn.Module:
    widths = {"basic": [16, 32], "bottleneck": [96, 128]}[layer_type]
    sizes: dict[str, Any] = {"num_channels": 1, "embedding_size": 16, "hidden_sizes": widths, "depths": [2, 2]}
    return ResNetForImageClassification(ResNetConfig(**sizes, layer_type=layer_type, num_labels=CLASSES))


MODELS: dict[str, tuple[Callable[[], nn.Module], int, int, float, dict[str, Any]]] = {
    "vit": (build_vit, 8, 16, 3e-3, {"ffn_sparsity": 0.6, "head_sparsity": 0.5}),
    "basic": (lambda: build_resnet("basic"), 24, 5, 5e-3, {"channel_sparsity": 0.5}),
    "bottleneck": (lambda: build_resnet("bottleneck"), 24, 6, 5e-3, {"channel_sparsity": 0.5}),
}
"""How a model is built, the pixels it sees, epochs, learning rate, and what of it goes."""


@pytest.fixture(scope="module", params=list(MODELS))
def trained(request: pytest.FixtureRequest, digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name, folder of the trained model, images."""
    build, size, epochs, rate, _ = MODELS[request.param]
    images = digits.at(size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = train(build(), images, digits.labels, epochs, rate)
    folder = tmp_path_factory.mktemp("digits") / request.param
    model.save_pretrained(folder)
    return request.param, folder, images


def compress(trained: Any, folder: Path | None = None, **settings: Any) -> GrailCompressor:
    name, source, images = trained
    config = {"selector": "wanda", "allocation": "uniform", "num_samples": CALIBRATED, **MODELS[name][4], **settings}
    compressor = GrailCompressor.from_pretrained(source, config)
    compressor.compress([{"pixel_values": image} for image in images[:CALIBRATED]], folder)
    return compressor


@pytest.fixture(scope="module")
def compressed(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[GrailCompressor, Path]]:
    """Compressor and checkpoint, by method of compensation."""
    base = tmp_path_factory.mktemp("compressed")
    return {name: (compress(trained, base / name, **settings), base / name) for name, settings in METHODS.items()}


def test_compensation_gives_accuracy_back(trained: Any, compressed: Any, digits: Digits) -> None:
    _, folder, images = trained
    dense = accuracy(AutoModelForImageClassification.from_pretrained(folder), images, digits.labels)
    found = {name: accuracy(item[0].model, images, digits.labels) for name, item in compressed.items()}
    assert dense > 0.9
    tie = 0.02  # 8 of 397 images
    assert found["none"] + tie < found["grail"] <= found["grail-plus"] + tie
    assert found["grail-plus"] > dense - 0.1


def test_what_was_saved_comes_back(trained: Any, compressed: Any) -> None:
    name, _, images = trained
    for compressor, folder in compressed.values():
        again = AutoModelForImageClassification.from_pretrained(folder)
        part = images[:8]
        assert torch.equal(again(pixel_values=part).logits, compressor.model(pixel_values=part).logits)
        assert compressor.report.standalone == (name == "vit")
        assert (AutoConfig.from_pretrained(folder).grail_config.get("layers") is None) == (name == "vit")
        assert sum(p.numel() for p in again.parameters()) == compressor.report.parameters_after


def test_units_that_went(trained: Any, compressed: Any) -> None:
    name, _, _ = trained
    report = compressed["grail-plus"][0].report
    expected = {"heads": 0.5, "mlp": 0.6} if name == "vit" else {"conv": 0.5}
    assert report.achieved_units == {kind: pytest.approx(share, abs=0.01) for kind, share in expected.items()}
    assert report.calibration.samples == CALIBRATED and report.calibration.tokens == 0
    if name != "vit":
        assert [text for text in report.warnings if "import optimum_grail" in text], report.warnings


def test_batch_norm_state_is_narrowed_and_kept(trained: Any, compressed: Any) -> None:
    name, _, _ = trained
    if name == "vit":
        pytest.skip("no BatchNorm")
    model = compressed["grail-plus"][0].model
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_features == len(module.running_mean) == len(module.running_var) == len(module.weight)
            assert bool((module.running_var > 0).all())
    model.train()
    loss = model(pixel_values=trained[2][:16], labels=torch.zeros(16, dtype=torch.int64)).loss
    loss.backward()
    model.eval()
    assert all(p.grad is not None for p in model.parameters())


def test_a_budget_of_parameters_by_default(trained: Any) -> None:
    """The default method, balanced, with nothing but a sparsity."""
    _, folder, images = trained
    compressor = GrailCompressor.from_pretrained(folder, {"num_samples": 64, "sparsity": 0.4})
    compressor.compress([{"pixel_values": image} for image in images[:64]])
    # one width per stage: the least step of this small bottleneck net is 1.8 % of its blocks
    assert 0.4 - 0.018 < compressor.report.achieved < 0.42
    rows = [row for row in compressor.report.groups if row.shrinks and row.kind != "heads"]
    assert {row.units_after < row.units_before for row in rows} == {True}


def test_images_are_asked_for(trained: Any) -> None:
    with pytest.raises(DataError, match="--dataset"):
        GrailCompressor.from_pretrained(trained[1]).compress()
    with pytest.raises(DataError, match=r"image processor|preprocessor_config.json"):
        GrailCompressor.from_pretrained(trained[1]).compress(["one.png", "two.png"])
