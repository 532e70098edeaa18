"""What a run is told to need; and a run on few rows says so, in its report too."""

from __future__ import annotations

import pytest
import torch

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.compressor import GrailCompressor
from optimum_grail.config.config import GrailConfig
from optimum_grail.data.batches import make_batches
from optimum_grail.fit.methods import Methods
from optimum_grail.models.resolve import resolve
from optimum_grail.pipeline.estimate import Estimate, estimate
from optimum_grail.streams.language_head import COPIES, LOGITS_BYTES


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


def told(samples: int, preset: str = "grail-plus") -> Estimate:
    """The estimate for so many samples of 64 tokens, in eight batches."""
    model = tiny_llama()
    ids = torch.zeros(samples, 64, dtype=torch.int64)
    batches = make_batches([{"input_ids": row} for row in ids], batch_size=max(1, samples // 8))
    return estimate(model, resolve(model), Methods.of(GrailConfig(preset=preset).resolved()), batches)


def test_logits_count_where_they_are_more_than_a_block_at_work() -> None:
    """A survey makes them before it walks through the blocks; the two never need memory at once."""
    few = told(8)
    assert 0 < few.logits < COPIES * LOGITS_BYTES <= few.memory < 1.1 * COPIES * LOGITS_BYTES
    many = told(1024)
    assert many.logits < few.logits and many.memory > few.memory


def test_without_a_survey_no_logits_are_made() -> None:
    found = told(8, "wanda+grail")
    assert found.logits == 0 and found.memory < COPIES * LOGITS_BYTES / 10
