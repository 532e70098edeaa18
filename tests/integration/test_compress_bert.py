"""A real pretrained BERT (MiniLM): embeddings stay close, heads go to the layer table, and both come back from disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertModel

from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import BudgetError, DataError
from optimum_grail.evaluation.evaluate import evaluate_path

FFN = {"selector": "wanda", "ffn_sparsity": 0.7, "allocation": "uniform", "num_samples": 96, "seqlen": 64}
HEADS = {"preset": "grail", "head_sparsity": 0.5, "num_samples": 96, "seqlen": 64}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sentences(prose: Any) -> list[str]:
    """128 to calibrate on, and more to measure on."""
    return prose.sentences


@pytest.fixture(scope="module")
def embed(minilm: Path, sentences: list[str]) -> Callable[[Any], Tensor]:
    """Masked means of the last hidden states of 48 sentences, of unit length."""
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    batch = tokenizer(sentences[128:176], return_tensors="pt", padding=True, truncation=True, max_length=64)

    @torch.inference_mode()
    def run(model: Any) -> Tensor:
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)

    return run


@pytest.fixture(scope="module")
def compress(minilm: Path, sentences: list[str]) -> Callable[..., GrailCompressor]:
    def run(folder: Path | None = None, **settings: Any) -> GrailCompressor:
        compressor = GrailCompressor.from_pretrained(minilm, settings)
        compressor.compress(sentences[:128], folder)
        return compressor

    return run


@pytest.fixture(scope="module")
def ffn(compress: Callable[..., GrailCompressor], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("bert") / "ffn"
    return compress(folder, **FFN), folder


@pytest.fixture(scope="module")
def heads(compress: Callable[..., GrailCompressor], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("bert") / "heads"
    return compress(folder, **HEADS), folder


def closeness(ours: Tensor, dense: Tensor) -> float:
    """Mean cosine."""
    return float((ours * dense).sum(1).mean())


def test_the_folder_stays_one_of_sentence_transformers(ffn: Any, minilm: Path) -> None:
    """Its modules and settings come along; what it says of the dense model does not."""
    for name in ("modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"):
        assert (ffn[1] / name).read_bytes() == (minilm / name).read_bytes()
    assert not (ffn[1] / ".gitattributes").exists() and "sentence-similarity" not in (ffn[1] / "README.md").read_text()
    assert json.loads((ffn[1] / "config.json").read_text())["intermediate_size"] == 461


def test_embeddings_stay_close(
    ffn: Any, compress: Callable[..., GrailCompressor], embed: Callable[[Any], Tensor], minilm: Path
) -> None:
    dense = embed(BertModel.from_pretrained(minilm))
    compensated = closeness(embed(ffn[0].model), dense)
    plain = closeness(embed(compress(**FFN, compensator="none").model), dense)
    assert compensated > 0.85
    assert 1 - compensated < 0.4 * (1 - plain)
    assert ffn[0].report.achieved_units == {"heads": 0.0, "mlp": pytest.approx(0.7, abs=0.001)}


def test_ffn_needs_nothing_but_transformers(ffn: Any, embed: Callable[[Any], Tensor]) -> None:
    compressor, folder = ffn
    assert compressor.report.standalone
    again = AutoModel.from_pretrained(folder)
    assert again.config.intermediate_size == again.encoder.layer[0].intermediate.dense.out_features == 461
    assert torch.equal(embed(again), embed(compressor.model))


def test_heads_go_to_the_layer_table_with_one_warning(heads: Any, embed: Callable[[Any], Tensor], minilm: Path) -> None:
    compressor, folder = heads
    (warning,) = [text for text in compressor.report.warnings if "import optimum_grail" in text]
    assert "heads" in warning and not compressor.report.standalone
    table = AutoConfig.from_pretrained(folder).grail_config["layers"]
    assert table == {str(layer): {"num_attention_heads": 6} for layer in range(6)}
    again = AutoModel.from_pretrained(folder)
    assert again.encoder.layer[5].attention.self.num_attention_heads == 6
    assert again.encoder.layer[5].attention.self.all_head_size == 192
    assert torch.equal(embed(again), embed(compressor.model))
    assert closeness(embed(again), embed(BertModel.from_pretrained(minilm))) > 0.85


def test_both_load_in_a_fresh_process(ffn: Any, heads: Any, python: Callable[..., str]) -> None:
    code = """
import sys
from transformers import AutoModel, AutoTokenizer
inputs = AutoTokenizer.from_pretrained(sys.argv[1])("A sentence.", return_tensors="pt")
print(AutoModel.from_pretrained(sys.argv[1])(**inputs).last_hidden_state.shape[-1])
assert "optimum_grail" not in sys.modules
import optimum_grail
model = AutoModel.from_pretrained(sys.argv[2])
print(model.encoder.layer[0].attention.self.query.out_features, model(**inputs).last_hidden_state.shape[-1])
"""
    assert python(code, ffn[1], heads[1]).split() == ["384", "192", "384"]


def test_what_the_config_cannot_say_is_refused_where_it_must(minilm: Path, sentences: list[str]) -> None:
    for settings, message in (
        ({"head_sparsity": 0.5, "standalone": True}, "'heads'.*--no-standalone"),
        ({"sparsity": 0.9, "standalone": True}, "at most 0.66.*--no-standalone"),
    ):
        compressor = GrailCompressor.from_pretrained(minilm, {"preset": "grail", **settings})
        with pytest.raises(BudgetError, match=message):
            compressor.compress(sentences[:8])


def test_an_encoder_asks_for_data_by_name(minilm: Path) -> None:
    for config in ({}, {"dataset": "self"}):
        with pytest.raises(DataError, match="--dataset"):
            GrailCompressor.from_pretrained(minilm, config).compress()


def test_data_free_methods_need_none(minilm: Path, tmp_path: Path) -> None:
    compressor = GrailCompressor.from_pretrained(minilm, {"preset": "magnitude", "sparsity": 0.3})
    compressor.compress(save_directory=tmp_path / "out")
    assert compressor.report.calibration is None and 0.3 <= compressor.report.achieved < 0.305
    assert {row.units_after for row in compressor.report.groups if row.kind == "heads"} == {12}


def test_sentence_similarity_survives(ffn: Any, heads: Any, minilm: Path, data_dir: Path) -> None:
    """STS-B, first 300 pairs of dev, with three tenths of the FFN and calibrated on text of another kind."""
    sizes: dict[str, Any] = {"num_samples": 300}
    scores = [evaluate_path(path, data_dir / "stsb" / "dev.csv", "spearman", **sizes) for path in (minilm, ffn[1])]
    assert scores[1]["spearman"] > 0.95 * scores[0]["spearman"]
