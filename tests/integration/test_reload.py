"""What was saved is what was compressed: bit for bit, in plain transformers wherever its configs can say the widths."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from optimum_grail.compressor import GrailCompressor
from optimum_grail.config.config import GrailConfig
from optimum_grail.report.report import Report

TEXT = "The statement is executed by first evaluating the expression"
FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "grail_config.json",
    "grail_errors.png",
    "grail_files.json",
    "grail_plan.json",
    "grail_plan.tensors",
    "grail_report.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
NEEDS_US = """
try:
    AutoModelForCausalLM.from_pretrained(sys.argv[1])
except RuntimeError as error:  # transformers says what does not fit; it never computes with random weights
    assert "mismatch" in str(error)
else:
    raise SystemExit("loaded by halves")
import optimum_grail
"""
LOGITS = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
{first}
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = tokenizer(sys.argv[2], return_tensors="pt", return_token_type_ids=False)
with torch.inference_mode():
    torch.save(model(**ids).logits, sys.argv[3])
print(tokenizer.decode(model.generate(**ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0]))
assert ("optimum_grail" in sys.modules) == {ours}, sorted(name for name in sys.modules if "grail" in name)
"""


def inputs(folder: Path) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return dict(tokenizer(TEXT, return_tensors="pt", return_token_type_ids=False))


def logits(model: Any, folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return model(**inputs(folder)).logits


@pytest.mark.parametrize(("name", "first"), [("default", ""), ("free", NEEDS_US)], ids=["default", "free"])
def test_a_fresh_process_computes_the_same(
    name: str, first: str, llama_run: Callable[[str], Any], python: Callable[..., str], tmp_path: Path
) -> None:
    """Plain transformers without a trace of this package; free widths after its import and nothing else."""
    run = llama_run(name)
    printed = python(LOGITS.format(first=first, ours=bool(first)), run.folder, TEXT, tmp_path / "logits.pt")
    model = run.compressor.model
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits(model, run.folder))
    ids = inputs(run.folder)
    written = model.generate(**ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert printed.strip() == AutoTokenizer.from_pretrained(run.folder).decode(written[0]).strip()


@pytest.mark.parametrize("name", ["default", "free", "grail"])
def test_every_file_is_there(name: str, llama_run: Callable[[str], Any]) -> None:
    folder = llama_run(name).folder
    assert {path.name for path in folder.iterdir()} == FILES
    assert all(path.stat().st_size for path in folder.iterdir())
    for path in folder.glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert AutoTokenizer.from_pretrained(folder)("a b")["input_ids"]


def test_config_says_how_it_was_made(llama_run: Callable[[str], Any]) -> None:
    run = llama_run("default")
    config = AutoConfig.from_pretrained(run.folder)
    model = run.compressor.model
    assert config.intermediate_size == model.model.layers[0].mlp.up_proj.out_features
    assert config.head_dim == 16 and config.num_attention_heads == 2 * config.num_key_value_heads
    assert "layers" not in config.grail_config and config.grail_config["selector"].startswith("obs")
    assert config.grail_config["widths"]["model.layers.5.mlp"] == config.intermediate_size
    assert config.dtype == torch.bfloat16
    noted = AutoConfig.from_pretrained(llama_run("free").folder).grail_config
    assert "`import optimum_grail` before" in noted["how_to_load"] and "how_to_load" not in config.grail_config
    table = noted["layers"]
    widths = {layer: row.get("intermediate_size", 512) for layer, row in table.items()}
    layers = llama_run("free").compressor.model.model.layers
    assert all(layers[int(layer)].mlp.up_proj.out_features == width for layer, width in widths.items())


def test_weights_keep_the_checkpoints_dtype(llama_run: Callable[[str], Any], embedded_llama: Path) -> None:
    saved = load_file(llama_run("default").folder / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    assert set(saved) == set(load_file(embedded_llama / "model.safetensors"))


def test_plan_report_and_configuration_read_back(llama_run: Callable[[str], Any]) -> None:
    run = llama_run("default")
    plan = run.compressor.plan
    written = json.loads((run.folder / "grail_plan.json").read_text(encoding="utf-8"))["groups"]
    assert list(written) == list(plan)
    with safe_open(run.folder / "grail_plan.tensors", "pt") as tensors:
        for name, item in plan.items():
            assert (written[name]["kept"], written[name]["units"]) == (item.reduction.slots, item.group.units)
            assert torch.equal(tensors.get_tensor(f"{name}.assignment"), item.reduction.assignment)
            if item.reduction.slots < item.group.units:
                order = tensors.get_tensor(f"{name}.order")
                assert len(order.unique()) == len(order) >= item.group.units - item.reduction.slots
    assert Report.load(run.folder) == run.compressor.report
    config = GrailConfig.from_pretrained(run.folder)
    assert config.to_dict() == run.compressor.config.resolved().to_dict()


def test_card_is_valid_and_tells_no_paths(llama_run: Callable[[str], Any]) -> None:
    for name, library in (("default", "transformers"), ("free", "optimum-grail")):
        run = llama_run(name)
        card = ModelCard.load(run.folder / "README.md")
        assert card.data.library_name == library and card.data.pipeline_tag == "text-generation"
        assert card.data.license == ModelCard.load(run.compressor.source + "/README.md").data.license
        assert str(run.folder.parent) not in card.content and "/tmp/" not in card.content
        assert ("import optimum_grail" in card.content) == (name == "free")


@pytest.mark.parametrize("name", ["default", "free"])
@pytest.mark.parametrize("arguments", [{}, {"device_map": "cpu"}, {"attn_implementation": "eager"}], ids=str)
def test_ways_to_load(name: str, arguments: dict[str, Any], llama_run: Callable[[str], Any]) -> None:
    run = llama_run(name)
    model = AutoModelForCausalLM.from_pretrained(run.folder, **arguments)
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    expected = logits(run.compressor.model, run.folder)
    if "attn_implementation" in arguments:
        torch.testing.assert_close(logits(model, run.folder), expected, atol=0.3, rtol=0.05)
    else:
        assert torch.equal(logits(model, run.folder), expected)
    wide = AutoModelForCausalLM.from_pretrained(run.folder, dtype=torch.float32, **arguments)
    torch.testing.assert_close(logits(wide, run.folder), expected.float(), atol=0.3, rtol=0.05)


@pytest.mark.parametrize("name", ["default", "free"])
def test_generation_with_every_cache(name: str, llama_run: Callable[[str], Any]) -> None:
    run = llama_run(name)
    model = AutoModelForCausalLM.from_pretrained(run.folder, dtype=torch.float32)
    options: dict[str, Any] = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(**inputs(run.folder), **options, use_cache=False)
    assert torch.equal(model.generate(**inputs(run.folder), **options), expected)
    static = model.generate(**inputs(run.folder), **options, cache_implementation="static")
    assert torch.equal(static, expected)


@pytest.mark.parametrize("name", ["default", "free"])
def test_shards_and_a_second_generation(name: str, llama_run: Callable[[str], Any], tmp_path: Path) -> None:
    """Saved by us in shards, loaded, saved by transformers, loaded again."""
    run = llama_run(name)
    expected = logits(run.compressor.model, run.folder)
    run.compressor.save_pretrained(tmp_path / "shards", max_shard_size="1MB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "shards")
    assert torch.equal(logits(model, run.folder), expected)
    model.save_pretrained(tmp_path / "again", max_shard_size="2MB")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert torch.equal(logits(again, run.folder), expected)
    assert again.config.grail_config == model.config.grail_config


def test_two_runs_write_the_same_bytes(compress_llama: Callable[..., GrailCompressor], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dataset": "self", "allocation": "uniform", "num_samples": 6, "seqlen": 48}
    for name in ("one", "two"):
        compressor = compress_llama(**settings)
        torch.rand(3)  # the global random state must not matter
        compressor.save_pretrained(tmp_path / name)
    for name in FILES - {"grail_report.json", "README.md"}:  # they tell how long it took
        first, second = ((tmp_path / run / name).read_bytes() for run in ("one", "two"))
        assert first == second, name
    first, second = (Report.load(tmp_path / run) for run in ("one", "two"))
    assert first.groups == second.groups and first.calibration == second.calibration
    other = compress_llama(**settings, preset="grail", seed=1)
    assert other.report.calibration.sha256 != first.calibration.sha256


def test_a_saved_configuration_repeats_the_run(
    llama_run: Callable[[str], Any], embedded_llama: Path, tmp_path: Path
) -> None:
    run = llama_run("grail")
    compressor = GrailCompressor.from_pretrained(embedded_llama, GrailConfig.from_pretrained(run.folder))
    compressor.compress(save_directory=tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (run.folder / "model.safetensors").read_bytes()


def test_other_doors(llama_run: Callable[[str], Any]) -> None:
    """The base model, a task of its own, an empty model from the config, copies and pickles have the widths too."""
    run = llama_run("free")
    widths = [layer.mlp.up_proj.out_features for layer in run.compressor.model.model.layers]
    base = AutoModel.from_pretrained(run.folder)
    ids = inputs(run.folder)
    expected = run.compressor.model.model(**ids).last_hidden_state
    assert torch.equal(base(**ids).last_hidden_state, expected)
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(run.folder))
    task = AutoModelForSequenceClassification.from_pretrained(run.folder)
    for layers in (skeleton.model.layers, task.model.layers):
        assert [layer.mlp.up_proj.out_features for layer in layers] == widths
    for twin in (copy.deepcopy(base), pickle.loads(pickle.dumps(base))):
        assert torch.equal(twin(**ids).last_hidden_state, expected)
