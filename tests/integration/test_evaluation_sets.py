"""Whole runs that measure several sets, agreement and damaged inputs: the embedded LLaMA and a real classifier."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoImageProcessor

from optimum_grail.compressor import GrailCompressor
from optimum_grail.evaluation.evaluate import evaluate_path
from optimum_grail.hub.card import rewrite_card
from optimum_grail.report.report import Report


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, prose: Any) -> dict[str, str]:
    """A corpus of two splits, and a set of another: source code."""
    folder = tmp_path_factory.mktemp("texts")
    contents = {
        "docs/train.txt": prose.calibration.read_text(encoding="utf-8"),
        "docs/test.txt": prose.held.read_text(encoding="utf-8")[:8000],
        "code/test.txt": inspect.getsource(argparse)[:8000],
    }
    for name, text in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return {name: str(folder / name) for name in contents}


def test_a_language_model_in_and_out_of_its_corpus(embedded_llama: Path, texts: dict[str, str], tmp_path: Path) -> None:
    config = {"preset": "grail", "sparsity": 0.3, "num_samples": 8, "seqlen": 64, "dataset": texts["docs/train.txt"]}
    compressor = GrailCompressor.from_pretrained(embedded_llama, config)
    sets = {"docs": texts["docs/test.txt"], "code": texts["code/test.txt"]}
    compressor.compress(save_directory=tmp_path / "out", eval_dataset=sets)
    docs, code = Report.load(tmp_path / "out").evaluation
    assert (docs["dataset"], docs["corpus"]) == ("docs", "in corpus")
    assert (code["dataset"], code["corpus"]) == ("code", "out of corpus")
    assert "perplexity on code (out of corpus)" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    again = evaluate_path(tmp_path / "out", sets, "perplexity", seqlen=64, reference=embedded_llama, device="cpu")
    for row, found in zip((docs, code), again["sets"], strict=True):
        assert row["dense"] < row["compressed"] and row["agreement"]["kl"] > 0.01
        assert found["perplexity"] == pytest.approx(row["compressed"], rel=1e-6)
        assert found["reference_perplexity"] == pytest.approx(row["dense"], rel=1e-6)
        assert found["corpus"] == row["corpus"]
        for key, value in row["agreement"].items():
            assert found[key] == pytest.approx(value, rel=1e-3), "by another way: both models loaded anew"


def test_a_classifier_on_damaged_pictures(data_dir: Path, tmp_path: Path) -> None:
    rows = Dataset.from_parquet(str(data_dir / "cifar10-lossless" / "test.parquet")).select(range(192))
    processor = AutoImageProcessor.from_pretrained(data_dir / "vit-cifar10")
    config = {"ffn_sparsity": 0.5, "num_samples": 64, "allocation": "uniform"}
    compressor = GrailCompressor.from_pretrained(data_dir / "vit-cifar10", config, processor=processor)
    held = rows.select(range(64, 192))
    compressor.compress(rows.select(range(64)), tmp_path / "out", eval_dataset=held, robustness=True)
    found = {row.get("perturbation"): row for row in Report.load(tmp_path / "out").evaluation}
    assert list(found) == [None, "noise", "blur", "jpeg"]
    assert {row["corpus"] for row in found.values()} == {"not known"}, "data in memory has no name"
    assert all(found[name]["dense"] < found[None]["dense"] for name in ("noise", "jpeg"))
    assert all(0.5 < row["agreement"]["same_class"] <= 1 for row in found.values())
    card = rewrite_card(tmp_path / "out").read_text(encoding="utf-8")
    assert "| accuracy, jpeg on Dataset in memory (corpus not known) |" in card
