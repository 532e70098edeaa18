"""Every preset compresses a language model with grouped heads and a convolutional network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.compressor import GrailCompressor
from optimum_grail.config.presets import presets


def text_samples(model: Any) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(3, model.config.vocab_size, (12,), generator=draw)} for _ in range(8)]


def image_samples(model: Any) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(0)
    return [{"pixel_values": torch.randn(3, 32, 32, generator=draw)} for _ in range(8)]


@pytest.mark.parametrize("name", presets())
@pytest.mark.parametrize(("build", "samples"), [(tiny_llama, text_samples), (tiny_basic, image_samples)])
def test_a_preset_runs(name: str, build: Any, samples: Any) -> None:
    model = build()
    inputs = samples(model)
    before = sum(parameter.numel() for parameter in model.parameters())
    compressor = GrailCompressor(model, {"preset": name, "sparsity": 0.4, "num_samples": 8, "batch_size": 4})
    compressor.compress(None if presets()[name].needs == "no data" else inputs)
    assert sum(parameter.numel() for parameter in model.parameters()) < before
    with torch.no_grad():
        output = model(**{key: value[None] for key, value in inputs[0].items()})
    assert bool(torch.isfinite(output[0]).all())
