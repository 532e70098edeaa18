"""What config.json asks for is weighed against what is stored, before anything of that size is made."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama, tiny_mistral
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.auto import GrailModelForCausalLM
from optimum_grail.checkpoints import skeleton
from optimum_grail.checkpoints.headers import Stored, stored_weights
from optimum_grail.checkpoints.loading import load_config, load_model
from optimum_grail.checkpoints.skeleton import build_skeleton, check_numbers, check_size
from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import CheckpointError


def edited(folder: Path, **values: Any) -> Path:
    """A tiny LLaMA (157 kB) whose config.json says something else."""
    tiny_llama().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | values), encoding="utf-8")
    return folder


OUT_OF_PROPORTION = {
    "vocabulary": ({"vocab_size": 20_000_000}, r"'(lm_head|model\.embed_tokens)\.weight' has the shape \(96, 32\)"),
    "width": ({"intermediate_size": 10**9}, r"asks for \(32, 1000000000\)"),
    "size of a head": ({"head_dim": 10**8}, "do not fit config.json"),
    "layers": ({"num_hidden_layers": 100_000}, r"'num_hidden_layers' = 100000; expected at most 1,000"),
    "layers of a vast list": ({"num_hidden_layers": 10**15}, "expected at most 1,000"),
    "a number of 400 digits": ({"vocab_size": 10**400}, "a number of more than 30 digits"),
    "labels": ({"num_labels": 10**12}, "expected at most 1,000,000"),
    "layers just below the bound": ({"num_hidden_layers": 1000}, "asks for more than 10,600 modules and parameters"),
}


@pytest.mark.parametrize("name", OUT_OF_PROPORTION)
def test_out_of_proportion_is_refused_before_it_is_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, message = OUT_OF_PROPORTION[name]
    folder = edited(tmp_path, **values)
    monkeypatch.setattr("transformers.LlamaForCausalLM.from_pretrained", lambda *_, **__: pytest.fail("was loaded"))
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("name", OUT_OF_PROPORTION)
@pytest.mark.parametrize("given", [{}, {"grail_config": {"preset": "magnitude"}}, {"subfolder": "inner"}], ids=str)
def test_auto_classes_refuse_it_too(
    name: str, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, message = OUT_OF_PROPORTION[name]
    edited(tmp_path / given.get("subfolder", ""), **values)
    monkeypatch.setattr("transformers.LlamaForCausalLM.from_pretrained", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(CheckpointError, match=message):
        GrailModelForCausalLM.from_pretrained(tmp_path, **given)


def test_a_configuration_of_ones_own_is_weighed_and_left_as_it_is(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    config = LlamaConfig(vocab_size=20_000_000, hidden_size=32, dtype="float16")
    before = config.to_dict()
    with pytest.raises(CheckpointError, match="asks for"):
        GrailModelForCausalLM.from_pretrained(tmp_path, config=config)
    assert config.to_dict() == before


def test_what_cannot_be_weighed_is_left_to_transformers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no such type"}', encoding="utf-8")
    with pytest.raises(ValueError, match="no such type") as caught:
        GrailModelForCausalLM.from_pretrained(tmp_path)
    assert not isinstance(caught.value, CheckpointError)


@pytest.mark.parametrize("build", [tiny_llama, tiny_mistral, tiny_bert, tiny_clip, tiny_vit, tiny_basic])
@pytest.mark.parametrize("shards", ["5GB", "30KB"])
def test_what_was_saved_is_loaded(build: Callable[[], Any], shards: str, tmp_path: Path) -> None:
    """ViT's tensors have other names in the file than in the model."""
    model = build()
    model.save_pretrained(tmp_path, max_shard_size=shards)
    again = load_model(tmp_path, device="cpu").state_dict()
    assert again.keys() == model.state_dict().keys()
    stored = stored_weights(tmp_path)
    assert stored is not None and len(stored.shapes) == len(again) and stored.bytes > 10_000


def test_no_slack_is_needed_for_what_is_sound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Buffers that are not stored, tied weights, half precision: the factor covers them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.setattr(skeleton, "SLACK", 0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    tied = LlamaForCausalLM(LlamaConfig(vocab_size=5000, tie_word_embeddings=True, **sizes))
    for index, model in enumerate((tied, tied.bfloat16(), tiny_clip(), tiny_bert())):
        model.save_pretrained(tmp_path / str(index))
        assert load_model(tmp_path / str(index), device="cpu") is not None


def test_tables_of_widths_are_counted_narrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compressor = GrailCompressor(tiny_llama(), {"preset": "magnitude", "head_sparsity": 0.25, "standalone": False})
    compressor.compress(save_directory=tmp_path / "small")
    monkeypatch.setattr(skeleton, "SLACK", 0)
    again = load_model(tmp_path / "small", device="cpu")
    assert again.state_dict().keys() == compressor.model.state_dict().keys()


def test_a_base_model_becomes_one_with_a_head(tmp_path: Path) -> None:
    """The names differ by a prefix: transformers says what is missing, not the check."""
    tiny_llama().model.save_pretrained(tmp_path)
    assert type(load_model(tmp_path, device="cpu")).__name__ == "LlamaModel"
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(CheckpointError, match=r"1 weights are missing .*'lm_head\.weight'"):
        load_model(tmp_path, device="cpu")


def test_quantized_weights_may_be_packed() -> None:
    with torch.device("meta"):
        model = nn.Linear(2**15, 2**15)  # 4 GiB in float32
    stored = Stored({"weight": (2**15, 2**15)}, 2**27)  # one bit each
    with pytest.raises(CheckpointError):
        check_size(model, stored, "x")
    model.config = tiny_llama().config
    model.config.quantization_config = {"quant_method": "any"}
    check_size(model, stored, "x")


@pytest.mark.parametrize(
    "values",
    [
        {"num_hidden_layers": 1000, "max_position_embeddings": 10**7, "vocab_size": 10**7, "eos_token_id": 10**9},
        {"text_config": {"num_layers": 126}, "depths": [3, 4, 23, 3], "block_size": 10**6, "num_experts": 512},
        {"grail_config": {"layers": {"100000": {"intermediate_size": 17}}}, "num_hidden_layers": None},
        {"num_hidden_layers": "many", "deep": [[[[[[1]]]]]]},
    ],
)
def test_ordinary_numbers_pass(values: dict[str, Any]) -> None:
    check_numbers(values, None, "x")


def test_many_stored_tensors_allow_many_layers() -> None:
    stored = Stored({f"layers.{index}.weight": (1,) for index in range(5000)}, 5000)
    check_numbers({"num_hidden_layers": 5000}, stored, "x")
    with pytest.raises(CheckpointError, match="expected at most 5,000"):
        check_numbers({"text_config": {"n_layer": 5001}}, stored, "x")


def test_the_count_ends_with_the_building(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeleton, "PARTS", 3)
    monkeypatch.setattr(skeleton, "PARTS_PER_TENSOR", 0)
    config = load_config(edited(tmp_path))
    with pytest.raises(CheckpointError, match="more than 3 modules"):
        build_skeleton(type(tiny_llama()), config, stored_weights(tmp_path), tmp_path)
    assert len([nn.Linear(2, 2) for _ in range(10)]) == 10


def test_damaged_headers_are_left_to_loading(tmp_path: Path) -> None:
    folder = edited(tmp_path)
    (folder / "model.safetensors").write_bytes(b"\xff" * 5000)
    assert stored_weights(folder) is None
    with pytest.raises(CheckpointError, match="corrupt"):
        load_model(folder)
