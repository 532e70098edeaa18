"""Bad models: each kind ends with its own clear error, exit code 2, before long work, and nothing is written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import CheckpointError, StatisticsError

FAST = ("--preset", "grail", "--num-samples", "6", "--seqlen", "32")
Refuse = Callable[..., tuple[str, str]]


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite a JSON file."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize("path", ["./no/such/model", "/no/such/model", "~/no-such-model"])
def test_model_path_that_does_not_exist(path: str, refuse: Refuse) -> None:
    kind, message = refuse(path, *FAST)
    assert kind == "CheckpointError"
    assert repr(path) in message and "does not exist" in message and "spelling" in message


def test_model_folder_without_a_model(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    kind, message = refuse(tmp_path / "empty", *FAST)
    assert kind == "CheckpointError"
    assert "holds no config.json" in message and "right folder" in message


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no-such-model"])
def test_model_id_out_of_reach(name: str, refuse: Refuse) -> None:
    kind, message = refuse(name, *FAST)
    assert kind == "CheckpointError"
    assert repr(name) in message and "neither a local folder nor" in message and "network" in message


def test_unknown_architecture(refuse: Refuse, tmp_path: Path, text: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1)).save_pretrained(
        tmp_path / "mamba"
    )
    kind, message = refuse(tmp_path / "mamba", *FAST, "--dataset", text)
    assert kind == "UnknownNameError"
    assert "'mamba'" in message and "bert" in message
    assert "register_architecture" in message or "spec=" in message


def test_class_that_transformers_does_not_have(refuse: Refuse, broken: Path) -> None:
    edit(broken / "config.json", lambda config: config.update(architectures=["LlamaForPoetry"]))
    kind, message = refuse(broken, *FAST)
    assert kind == "ArchitectureError"
    assert "'LlamaForPoetry'" in message and "Update transformers" in message


def test_broken_config(refuse: Refuse, broken: Path) -> None:
    (broken / "config.json").write_text("{", encoding="utf-8")
    kind, message = refuse(broken, *FAST)
    assert kind == "CheckpointError" and "config.json" in message and "Restore" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["model.layers.3.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight"])
def test_weights_that_are_no_numbers(value: float, name: str, refuse: Refuse, broken: Path, text: Path) -> None:
    state = load_file(broken / "model.safetensors")
    state[name][1, 2] = value
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    kind, message = refuse(broken, *FAST, "--dataset", text)
    assert kind == "StatisticsError"
    assert name in message and "NaN or infinite" in message and "Repair" in message


def test_weights_outside_the_groups_that_are_no_numbers(refuse: Refuse, broken: Path, text: Path) -> None:
    """A norm's weight is no part of any group, yet spoils every activation behind it."""
    state = load_file(broken / "model.safetensors")
    state["model.layers.2.input_layernorm.weight"][5] = float("nan")
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    for data in (("--dataset", text), ()):
        kind, message = refuse(broken, *FAST, *data)
        assert kind == "StatisticsError"
        assert "model.layers.2.input_layernorm.weight" in message


def test_running_statistics_that_are_no_numbers() -> None:
    model = tiny_basic()
    model.get_buffer("resnet.embedder.embedder.normalization.running_var")[3] = float("nan")
    with pytest.raises(StatisticsError, match=r"normalization\.running_var holds NaN"):
        GrailCompressor(model, {"preset": "magnitude"}).compress()


@pytest.mark.parametrize("preset", ["grail", "grail-plus"])
def test_activations_that_overflow(preset: str, refuse: Refuse, broken: Path, text: Path) -> None:
    """Every weight is finite, what they compute is not: the error names where it was seen, whenever that is."""
    state = load_file(broken / "model.safetensors")
    for name in ("gate_proj", "up_proj"):
        state[f"model.layers.4.mlp.{name}.weight"].mul_(0).add_(1e37)
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    words = ("--preset", preset, "--num-samples", "6", "--seqlen", "32", "--dataset", text)
    kind, message = refuse(broken, *words, early=False)
    assert kind == "StatisticsError"
    assert "model.layers.4" in message or "model.layers.5" in message


def test_a_model_that_cannot_write(refuse: Refuse, broken: Path) -> None:
    state = load_file(broken / "model.safetensors")
    state["model.norm.weight"].fill_(3e38)
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    kind, message = refuse(broken, *FAST)
    assert kind == "StatisticsError" and "finite" in message


def test_compressed_checkpoint(refuse: Refuse, llama_run: Callable[[str], Any], text: Path) -> None:
    for name in ("default", "free"):
        kind, message = refuse(llama_run(name).folder, *FAST, "--dataset", text)
        assert kind == "CheckpointError"
        assert "compressed already" in message and "dense" in message and "--allow-recompress" in message


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100_000])


def garble(path: Path) -> None:
    path.write_bytes(b"\xff" * 5000)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def drop_one(path: Path) -> None:
    state = load_file(path)
    del state["model.layers.3.mlp.up_proj.weight"]
    save_file(state, path, {"format": "pt"})


def reshape_one(path: Path) -> None:
    state = load_file(path)
    state["model.layers.3.mlp.up_proj.weight"] = state["model.layers.3.mlp.up_proj.weight"][:500].clone()
    save_file(state, path, {"format": "pt"})


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, garble, empty, drop_one, reshape_one, remove])
def test_damaged_weights(damage: Callable[[Path], None], refuse: Refuse, broken: Path) -> None:
    damage(broken / "model.safetensors")
    kind, message = refuse(broken, *FAST)
    assert kind == "CheckpointError" and repr(str(broken)) in message
    if damage in (drop_one, reshape_one):
        assert "model.layers.3.mlp.up_proj.weight" in message
    else:
        assert re.search(r"corrupt or truncated|again", message)


def test_pickled_weights(refuse: Refuse, broken: Path, cli: Any, tmp_path: Path) -> None:
    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    kind, message = refuse(broken, "--preset", "magnitude")
    assert kind == "CheckpointError" and "pickled" in message and "--allow-pickle" in message
    words = ("compress", "-m", broken, "-o", tmp_path / "out", "--preset", "magnitude", "--allow-pickle")
    assert cli("grail", *words) == 0


@pytest.mark.parametrize("change", [{"vocab_size": 20_000_000}, {"num_hidden_layers": 100_000}], ids=str)
def test_config_that_asks_for_far_more_than_is_stored(change: dict[str, int], refuse: Refuse, broken: Path) -> None:
    edit(broken / "config.json", lambda config: config.update(change))
    kind, message = refuse(broken, *FAST)
    assert kind == "CheckpointError" and repr(str(broken)) in message and "Restore the file" in message


def test_damaged_weights_when_evaluating(cli: Any, capsys: Any, broken: Path, text: Path) -> None:
    truncate(broken / "model.safetensors")
    assert cli("grail", "evaluate", "-m", broken, "--dataset", text, "--metric", "perplexity") == 2
    assert "truncated" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: layers["0"].update(intermediate_size=5), "do not fit config.json"),
        (lambda layers: layers["0"].update(intermediate_size=-1), "expected a width"),
        (lambda layers: layers["0"].update(intermediate_size="many"), "expected a width"),
        (lambda layers: layers["0"].update(intermediate_size=10**9), "above the 512"),
        (lambda layers: layers.update({"77": {"intermediate_size": 4}}), "no such layer"),
        (lambda layers: layers.clear(), "do not fit config.json"),
    ],
    ids=["other", "negative", "word", "huge", "layer", "empty"],
)
def test_table_that_does_not_fit_the_weights(
    change: Any, message: str, cli: Any, capsys: Any, llama_run: Callable[[str], Any], text: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(llama_run("free").folder, folder)
    edit(folder / "config.json", lambda config: change(config["grail_config"]["layers"]))
    for words in (("evaluate", "--dataset", text, "--metric", "perplexity"), ("compress", "-o", tmp_path / "out")):
        assert cli("grail", words[0], "-m", folder, *words[1:]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
        assert message in line or (words[0] == "compress" and "compressed already" in line)
    assert not (tmp_path / "out").exists()
    with pytest.raises((CheckpointError, RuntimeError)):
        AutoModelForCausalLM.from_pretrained(folder)


def test_missing_tokenizer(refuse: Refuse, broken: Path, text: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (broken / name).unlink()
    kind, message = refuse(broken, *FAST, "--dataset", text)
    assert kind == "DataError"
    assert repr(str(broken)) in message and "tokenizer.json is missing" in message


def test_broken_tokenizer(refuse: Refuse, broken: Path, text: Path) -> None:
    (broken / "tokenizer.json").write_text("{", encoding="utf-8")
    kind, message = refuse(broken, *FAST, "--dataset", text)
    assert kind == "DataError" and "tokenizer.json" in message and "Restore" in message
