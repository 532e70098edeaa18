"""Every small pretrained model of the test data: the default method and plain pruning, measured, saved, loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset

from optimum_grail.compressor import GrailCompressor
from optimum_grail.evaluation.evaluate import evaluate_path

pytestmark = pytest.mark.slow

LLAMA: dict[str, Any] = {"num_samples": 16, "seqlen": 128, "sparsity": 0.3}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "stories260K-llama": ("tinystories-sample", LLAMA),
    "babyllama105-llama": ("tinystories-sample", LLAMA),
    "vit-cifar10": ("cifar10-lossless", {"num_samples": 128, "head_sparsity": 0.5, "ffn_sparsity": 0.5}),
}
"""The data of a model, and what is asked."""


def rows_of(folder: Path, calibrate: int, measure: int) -> tuple[Dataset, Dataset]:
    """Rows to calibrate on, and other rows to measure on."""
    path = next(path for path in sorted(folder.glob("*.parquet")) if "test" not in path.name)
    data = Dataset.from_parquet(str(path), keep_in_memory=True)
    return data.select(range(calibrate)), data.select(range(calibrate, calibrate + measure))


@pytest.mark.parametrize("name", MODELS)
def test_compensation_helps_and_what_is_saved_is_what_was_measured(name: str, data_dir: Path, tmp_path: Path) -> None:
    source, config = MODELS[name]
    calibration, test = rows_of(data_dir / source, 300, 300 if name == "vit-cifar10" else 40)
    found = {}
    for method, settings in (("plain", {"preset": "wanda"}), ("default", {})):
        compressor = GrailCompressor.from_pretrained(data_dir / name, {**config, **settings})
        compressor.compress(calibration, tmp_path / method, eval_dataset=test)
        (row,) = compressor.report.evaluation
        found[method] = row
        assert not any("share rows" in warning for warning in compressor.report.warnings)
        assert compressor.report.standalone
    lower = not row["higher_is_better"]
    dense, plain, ours = row["dense"], found["plain"]["compressed"], row["compressed"]
    assert (dense < ours < plain) if lower else (plain < ours <= dense + 0.02)
    sizes = {"seqlen": config["seqlen"]} if lower else {}
    again = evaluate_path(tmp_path / "default", test, row["metric"], **sizes)
    assert again[row["metric"]] == pytest.approx(ours, rel=1e-6)
    model: Any = getattr(transformers, compressor.report.model_class).from_pretrained(tmp_path / "default")
    for key, tensor in compressor.model.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor)
