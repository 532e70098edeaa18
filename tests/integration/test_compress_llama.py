"""A real language model, dense to compressed: quality, size, report, and every way to ask."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_grail.compressor import GrailCompressor
from optimum_grail.config.config import GrailConfig
from optimum_grail.data.batches import CalibrationData
from optimum_grail.errors import CheckpointError
from optimum_grail.evaluation.comparison import Comparisons
from optimum_grail.evaluation.evaluate import evaluate_path

BLOCK_PARAMETERS = 2_435_328


@pytest.fixture(scope="module")
def losses(llama_run: Callable[[str], Any], loss: Callable[[Any], float], embedded_llama: Path) -> dict[str, float]:
    """Nats per token on the held-out prose, by recipe; ``"dense"`` too."""
    found = {"dense": loss(AutoModelForCausalLM.from_pretrained(embedded_llama))}
    for name in ("default", "uncompensated", "grail", "wanda", "self", "self, uncompensated"):
        found[name] = loss(llama_run(name).compressor.model)
    return found


def test_compensation_gives_quality_back(losses: dict[str, float]) -> None:
    assert losses["dense"] < losses["default"] < losses["uncompensated"]
    assert losses["dense"] < losses["grail"] < losses["wanda"]
    assert losses["default"] < losses["grail"]
    damage = {name: value - losses["dense"] for name, value in losses.items()}
    assert damage["default"] < 0.6 * damage["uncompensated"]


def test_text_of_its_own_helps_on_text_of_others(losses: dict[str, float]) -> None:
    damage = {name: value - losses["dense"] for name, value in losses.items()}
    assert 0 < damage["self"] < 0.8 * damage["self, uncompensated"]


@pytest.mark.parametrize("name", ["default", "grail", "wanda", "free"])
def test_the_asked_share_of_the_blocks_goes(name: str, llama_run: Callable[[str], Any]) -> None:
    run = llama_run(name)
    report, model = run.compressor.report, run.compressor.model
    inside = sum(parameter.numel() for parameter in model.model.layers.parameters())
    assert 0.5 - 576 * 6 / BLOCK_PARAMETERS <= report.achieved <= 0.505
    assert (report.block_parameters_before, report.block_parameters_after) == (BLOCK_PARAMETERS, inside)
    assert report.parameters_after == model.num_parameters() == sum(p.numel() for p in model.parameters())
    assert report.bytes_after == 2 * report.parameters_after


def test_one_width_per_kind_unless_freed(llama_run: Callable[[str], Any]) -> None:
    for name, free in (("default", False), ("grail", False), ("free", True)):
        layers = llama_run(name).compressor.model.model.layers
        widths = {layer.mlp.down_proj.in_features for layer in layers}
        assert (len(widths) > 1) == free
        assert llama_run(name).compressor.report.standalone != free


def test_report_tells_the_data_and_every_group(llama_run: Callable[[str], Any], prose: Any) -> None:
    report = llama_run("default").compressor.report
    data = report.calibration
    assert data is not None
    assert (data.source, data.samples, data.tokens, data.seqlen) == (str(prose.calibration), 16, 16 * 128, 128)
    assert len(data.sha256) == 64
    assert len(report.groups) == 12 and {row.kind for row in report.groups} == {"heads", "mlp"}
    for row in report.groups:
        assert 0 < row.units_after <= row.units_before
        if row.plain_error is not None and row.fit_error is not None:
            assert 0 <= row.fit_error <= row.plain_error + 1e-9
    assert {"data", "survey", "fit"} <= set(report.seconds)
    assert 0 < report.free_width_gain < 1
    assert report.config["selector"].startswith("obs") and report.config["sparsity"] == 0.5
    assert report.calibration.source == llama_run("grail").compressor.report.calibration.source
    assert llama_run("self").compressor.report.calibration.source.startswith("self")


def test_plan_says_what_was_kept(llama_run: Callable[[str], Any], embedded_llama: Path) -> None:
    """Without compensation the kept units are the dense rows, at the places that the plan names."""
    dense = AutoModelForCausalLM.from_pretrained(embedded_llama)
    compressor = llama_run("uncompensated").compressor
    assert compressor.plan is not None
    for index, layer in enumerate(compressor.model.model.layers):
        kept = compressor.plan[f"model.layers.{index}.mlp"].reduction.kept
        assert torch.equal(kept, kept.sort().values) and len(kept.unique()) == layer.mlp.up_proj.out_features
        original = dense.model.layers[index].mlp
        assert torch.equal(layer.mlp.up_proj.weight, original.up_proj.weight[kept])
        assert torch.equal(layer.mlp.down_proj.weight, original.down_proj.weight[:, kept])


def test_units_of_one_kind(compress_llama: Callable[..., GrailCompressor]) -> None:
    compressor = compress_llama(preset="wanda", ffn_sparsity=0.4, round_to=32)
    assert compressor.model.config.intermediate_size == 320  # 307.2 rounded to the nearest multiple
    assert compressor.model.config.num_key_value_heads == 6
    assert compressor.report.standalone and compressor.report.asked == {"ffn_sparsity": 0.4}
    assert {row.units_after for row in compressor.report.groups if row.kind == "heads"} == {6}
    heads = compress_llama(preset="wanda", head_sparsity=0.5)
    assert (heads.model.config.num_attention_heads, heads.model.config.num_key_value_heads) == (6, 3)
    assert heads.model.config.head_dim == 16 and heads.model.config.intermediate_size == 512


def test_data_of_every_form_gives_the_same_model(
    embedded_llama: Path, prose: Any, held_windows: Tensor, tmp_path: Path
) -> None:
    text = prose.calibration.read_text(encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text(Dataset.from_dict({"text": [text]}).to_pandas().to_json(orient="records"))
    forms = [str(prose.calibration), [text], Dataset.from_dict({"text": [text]}), str(tmp_path / "rows.jsonl")]
    weights, hashes = [], []
    for form in forms:
        compressor = GrailCompressor.from_pretrained(
            embedded_llama, {"preset": "grail", "sparsity": 0.3, "num_samples": 8, "seqlen": 64}
        )
        compressor.compress(form)
        weights.append(compressor.model.model.layers[5].mlp.down_proj.weight)
        hashes.append(compressor.report.calibration.sha256)
    assert len(set(hashes)) == 1
    assert all(torch.equal(weight, weights[0]) for weight in weights)


def test_tokenized_rows_need_no_tokenizer(embedded_llama: Path, held_windows: Tensor) -> None:
    model = AutoModelForCausalLM.from_pretrained(embedded_llama)
    compressor = GrailCompressor(model, {"preset": "grail", "sparsity": 0.3})
    assert compressor.compress([{"input_ids": row[:64]} for row in held_windows[:8]]) is model
    assert compressor.report.calibration.tokens == 8 * 64
    assert compressor.report.calibration.source == "list of 8 in memory"


def test_evaluation_measures_what_is_saved(
    embedded_llama: Path, prose: Any, held_windows: Tensor, tmp_path: Path
) -> None:
    config = {"preset": "wanda", "sparsity": 0.3, "num_samples": 8, "seqlen": 64, "dataset": str(prose.calibration)}
    text = tmp_path / "short.txt"
    text.write_text(prose.held.read_text(encoding="utf-8")[:8000], encoding="utf-8")
    compressor = GrailCompressor.from_pretrained(embedded_llama, config)
    compressor.compress(save_directory=tmp_path / "out", eval_dataset=str(text))
    (row,) = compressor.report.evaluation
    for folder, key in ((embedded_llama, "dense"), (tmp_path / "out", "compressed")):
        found = evaluate_path(folder, str(text), "perplexity", seqlen=64)
        assert found["perplexity"] == pytest.approx(row[key], rel=1e-6)
        assert found["protocol"] == row["protocol"]
    assert row["dense"] < row["compressed"]
    assert not any("share rows" in warning for warning in compressor.report.warnings)


def test_evaluating_on_calibration_data_is_warned_about(embedded_llama: Path, prose: Any, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text(prose.calibration.read_text(encoding="utf-8")[:8000], encoding="utf-8")
    config = {"preset": "wanda", "num_samples": 8, "seqlen": 64, "dataset": str(text)}
    compressor = GrailCompressor.from_pretrained(embedded_llama, config)
    compressor.compress(eval_dataset=str(text))
    assert any("share rows" in warning for warning in compressor.report.warnings)


@pytest.mark.parametrize(("known", "warned"), [(1.0, True), (0.5, True), (0.01, False), (0.0, False)])
def test_the_share_of_either_set_counts(known: float, warned: bool, embedded_llama: Path, prose: Any) -> None:
    """What is measured may be next to nothing of what was seen, and yet all have been seen."""
    model, tokenizer = (auto.from_pretrained(embedded_llama) for auto in (AutoModelForCausalLM, AutoTokenizer))
    text = [prose.held.read_text(encoding="utf-8")[:60_000]]
    (comparison,) = Comparisons.prepare(model, text, tokenizer, None, GrailConfig(seqlen=64)).items
    marks = sorted(comparison.metric.fingerprints(comparison.readers, comparison.rows))
    seen = frozenset(marks[: round(known * len(marks))]) | {f"gram:other {index}" for index in range(100 * len(marks))}
    data = CalibrationData((), "much", "", 1, 1, 64, "text", seen)
    assert bool(comparison.warnings(data)) == warned


def test_biases_are_added_on_request_only(compress_llama: Callable[..., GrailCompressor], tmp_path: Path) -> None:
    plain = compress_llama(preset="grail", sparsity=0.3)
    assert all("bias" not in name for name, _ in plain.model.named_parameters())
    compressor = compress_llama(sparsity=0.3, allocation="uniform", affine=True, num_samples=8)
    model = compressor.model
    assert model.config.attention_bias and model.config.mlp_bias
    assert model.model.layers[3].mlp.down_proj.bias.abs().sum() > 0
    assert compressor.report.parameters_after == sum(p.numel() for p in model.parameters())
    compressor.save_pretrained(tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(again.model.layers[3].mlp.down_proj.bias, model.model.layers[3].mlp.down_proj.bias)


def test_compressed_model_can_be_trained(llama_run: Callable[[str], Any], held_windows: Tensor) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama_run("default").folder, dtype=torch.float32).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.003)
    values = []
    for _ in range(3):
        loss = model(input_ids=held_windows[:4], labels=held_windows[:4]).loss
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        values.append(loss.item())
    assert math.isfinite(values[-1]) and values[-1] < values[0]


def test_compressing_twice_needs_leave(
    llama_run: Callable[[str], Any], prose: Any, embedded_llama: Path, tmp_path: Path
) -> None:
    once = llama_run("default")
    with pytest.raises(CheckpointError, match="compressed its model already"):
        once.compressor.compress()
    with pytest.raises(CheckpointError, match="allow_recompress"):
        GrailCompressor.from_pretrained(once.folder)
    with pytest.raises(CheckpointError, match="allow_recompress"):
        GrailCompressor(once.compressor.model)
    config = {"preset": "magnitude", "sparsity": 0.2, "allow_recompress": True}
    again = GrailCompressor.from_pretrained(once.folder, config)
    again.compress(save_directory=tmp_path / "again")
    assert again.report.parameters_after < once.compressor.report.parameters_after
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    ids = AutoTokenizer.from_pretrained(tmp_path / "again")("To be or not", return_tensors="pt")["input_ids"]
    assert torch.equal(loaded(input_ids=ids).logits, again.model(input_ids=ids).logits)


def test_the_callers_model_and_random_state_are_left_alone(embedded_llama: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = AutoModelForCausalLM.from_pretrained(embedded_llama)
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    embedding = model.model.embed_tokens.weight.clone()
    GrailCompressor(model, {"preset": "grail", "num_samples": 6, "seqlen": 32}).compress()
    assert torch.equal(torch.get_rng_state(), before)
    assert model.dtype == torch.bfloat16 and torch.equal(model.model.embed_tokens.weight, embedding)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
