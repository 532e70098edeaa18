"""A run on few rows says so, in its report too."""

from __future__ import annotations

import pytest
import torch

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.compressor import GrailCompressor


def notes(model: torch.nn.Module, samples: list[dict[str, torch.Tensor]], **settings: object) -> list[str]:
    compressor = GrailCompressor(model, {"preset": "grail", **settings})
    compressor.compress(samples)
    return [text for text in compressor.report.warnings if "follows chance" in text]


@pytest.mark.parametrize(("count", "few"), [(15, True), (16, False)])
def test_four_rows_for_every_feature_of_the_widest_group(count: int, few: bool) -> None:
    """Its query heads have 64 features; 16 samples of 16 tokens are 256 rows."""
    samples = [{"input_ids": torch.randint(0, 96, (16,))} for _ in range(count)]
    found = notes(tiny_llama(), samples, sparsity=0.3)
    assert len(found) == few
    if found:
        assert "64 features and sees 240 calibration rows" in found[0] and "--num-samples" in found[0]


def test_convolutions_see_a_row_per_position() -> None:
    samples = [{"pixel_values": torch.rand(3, 32, 32)} for _ in range(2)]
    (found,) = notes(tiny_basic(), samples, channel_sparsity=0.5)
    assert "calibration rows" in found


def test_without_data_nothing_is_said() -> None:
    compressor = GrailCompressor(tiny_llama(), {"preset": "magnitude"})
    compressor.compress()
    assert not any("follows chance" in text for text in compressor.report.warnings)
