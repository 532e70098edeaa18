"""The processor beside a model: of images, or of sound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import ViTImageProcessorPil, WhisperFeatureExtractor

from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.errors import DataError


def test_a_folder_of_a_speech_model_gives_its_feature_extractor(tmp_path: Path) -> None:
    WhisperFeatureExtractor(feature_size=8).save_pretrained(tmp_path)
    tokenizer, processor = load_processors(tmp_path)
    assert tokenizer is None
    assert isinstance(processor, WhisperFeatureExtractor)
    assert processor.feature_size == 8


def test_a_folder_of_an_image_model_gives_its_image_processor(tmp_path: Path) -> None:
    ViTImageProcessorPil().save_pretrained(tmp_path)
    assert type(load_processors(tmp_path)[1]).__name__ == "ViTImageProcessorPil"


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"sampling_rate": 16000, "feature_extractor_type": "No"})])
def test_a_broken_processor_is_refused_by_the_name_of_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"preprocessor_config\.json"):
        load_processors(tmp_path)
