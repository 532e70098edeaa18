"""Loading and measuring a saved model; every broken checkpoint has its own message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from optimum_grail.checkpoints.loading import load_model
from optimum_grail.errors import (
    ArchitectureError,
    CheckpointError,
    ConfigError,
    DataError,
    StatisticsError,
    UnknownNameError,
)
from optimum_grail.evaluation import METRICS
from optimum_grail.evaluation.evaluate import evaluate_path, make_metric

TEXT = ["It was a bright cold day in April, and the clocks were striking thirteen."] * 4


@pytest.fixture
def broken(folders, tmp_path) -> Path:
    return Path(shutil.copytree(folders["llama"], tmp_path / "model"))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}), encoding="utf-8")


def measure(folder: Any, dataset: Any = TEXT, metric: str = "perplexity", **options: Any) -> dict[str, Any]:
    return evaluate_path(folder, dataset, metric, device="cpu", **options)


def test_the_registry_holds_the_four_metrics() -> None:
    assert METRICS.names() == ["accuracy", "perplexity", "retrieval", "spearman"]
    assert all(kind.headline for _, kind in METRICS)
    assert [name for name, kind in METRICS if not kind.higher_is_better] == ["perplexity"]


def test_a_result_tells_what_was_measured(folders) -> None:
    result = measure(folders["llama"], seqlen=16)
    assert (result["metric"], result["model"]) == ("perplexity", str(folders["llama"]))
    assert result["dataset"] == "list of 4 in memory"
    json.dumps(result)


def test_the_class_is_the_one_in_the_config(folders) -> None:
    for name, kind in (("llama", "LlamaForCausalLM"), ("bert", "BertModel"), ("clip", "CLIPModel")):
        model = load_model(folders[name], device="cpu")
        assert type(model).__name__ == kind
        assert not model.training


def test_half_precision_checkpoints_keep_their_type_and_are_measured_in_float32(broken) -> None:
    dense = measure(broken, seqlen=16)["perplexity"]
    load_model(broken, dtype="bfloat16", device="cpu").save_pretrained(broken)
    assert load_model(broken, device="cpu").dtype == torch.bfloat16
    assert load_model(broken, dtype="float32", device="cpu").dtype == torch.float32
    assert measure(broken, seqlen=16)["perplexity"] == measure(broken, seqlen=16, dtype="float32")["perplexity"]
    assert measure(broken, seqlen=16)["perplexity"] == pytest.approx(dense, rel=0.02)


def test_options_of_another_metric_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'perplexity' has no option 'image_column'\. It takes text_column"):
        make_metric("perplexity", {"image_column": "x", "seqlen": 4})
    with pytest.raises(UnknownNameError, match="Did you mean 'spearman'"):
        make_metric("spearmann", {})


def test_a_truncated_file(broken) -> None:
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(broken)


def test_a_missing_file(broken) -> None:
    (broken / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(broken)


def test_a_missing_weight(broken) -> None:
    state = load_file(broken / "model.safetensors")
    del state["model.layers.0.mlp.up_proj.weight"]
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights are missing .*'model\.layers\.0\.mlp\.up_proj\.weight'"):
        load_model(broken)


def test_weights_of_another_shape(broken) -> None:
    edit(broken, intermediate_size=40)
    with pytest.raises(CheckpointError, match=r"down_proj\.weight' has the shape \(32, 48\), .* asks for \(32, 40\)"):
        load_model(broken)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"architectures": None}, ArchitectureError, "names no class"),
        ({"architectures": ["FooForBar"]}, ArchitectureError, "has no model class 'FooForBar'"),
        ({"model_type": "foo"}, CheckpointError, r"config\.json .* cannot be used"),
    ],
)
def test_a_config_that_names_nothing_known(broken, changes, error, message) -> None:
    edit(broken, **changes)
    with pytest.raises(error, match=message):
        measure(broken)


def test_a_config_that_is_no_json(broken) -> None:
    (broken / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json .* cannot be used"):
        measure(broken)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/no/such/model", "does not exist"),
        ("some/hub-model", "neither a local folder nor a model that the Hub gives"),
    ],
)
def test_a_model_that_is_not_there(path, message) -> None:
    with pytest.raises(CheckpointError, match=message):
        measure(path)


def test_a_folder_without_config(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        measure(tmp_path)


def test_a_missing_tokenizer(broken) -> None:
    (broken / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        measure(broken)


def test_weights_that_are_not_numbers(broken) -> None:
    state = load_file(broken / "model.safetensors")
    state["model.layers.0.mlp.up_proj.weight"][0] = torch.nan
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StatisticsError, match="not a number"):
        measure(broken, seqlen=16)


@pytest.mark.parametrize("options", [{"dtype": "int3"}, {"device": "nowhere"}])
def test_unknown_types_and_devices(folders, options) -> None:
    with pytest.raises(ConfigError):
        load_model(folders["llama"], **options)


def test_data_is_checked_before_the_weights_are_read(broken) -> None:
    (broken / "model.safetensors").unlink()
    for dataset, options in (("/no/such.txt", {}), (["x"], {"text_column": "y"}), (TEXT, {"seqlen": 65})):
        with pytest.raises(DataError):
            measure(broken, dataset, **options)


def test_the_reference_model_has_its_known_perplexity(data_dir) -> None:
    result = measure(
        data_dir / "llama-books-3m", data_dir / "classic-books" / "test.parquet", seqlen=256, max_tokens=4096
    )
    assert result["perplexity"] == pytest.approx(41.185, abs=0.01)  # 39.26 on the first 40,960 tokens
