"""Damaged checkpoints, reports and cards, links in circles and endless names: one line and exit code 2, or success."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.checkpoints.loading import load_config, load_model, load_skeleton
from optimum_grail.checkpoints.plan_file import PLAN_TENSORS, load_reductions
from optimum_grail.commands._inspection import inspect_model
from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import GrailError
from optimum_grail.hub.card import rewrite_card
from optimum_grail.report.report import Report

VALUES: dict[str, Any] = {
    "word": "x",
    "number": 2,
    "zero": 0,
    "minus": -3,
    "fraction": 0.5,
    "true": True,
    "null": None,
    "list": [1, "a", None],
    "empty list": [],
    "dict": {"a": {"b": 1}},
    "many digits": 10**400,
    "many layers": 10**7,
    "letters": "x" * 5000,
    "deep": json.loads("[" * 200 + "]" * 200),
}
FIELDS = {
    tiny_llama: (
        "architectures",
        "model_type",
        "pad_token_id",
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "num_hidden_layers",
        "intermediate_size",
        "vocab_size",
        "hidden_act",
        "rms_norm_eps",
        "rope_parameters",
        "max_position_embeddings",
        "tie_word_embeddings",
        "dtype",
        "grail_config",
        "quantization_config",
        "layer_types",
        "num_labels",
        "id2label",
        "auto_map",
        "transformers_version",
        "per_layer_config",
    ),
    tiny_bert: ("num_attention_heads", "layer_norm_eps", "type_vocab_size", "num_hidden_layers", "hidden_act"),
    tiny_vit: ("image_size", "patch_size", "num_channels", "num_attention_heads", "id2label"),
}
CASES = [(build, field, name) for build, fields in FIELDS.items() for field in fields for name in VALUES]


def checkpoint(build: Callable[[], Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A tiny model's configuration and weights."""
    model = build()
    values = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    return json.loads(json.dumps(values, default=str)), dict(model.state_dict())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    """One saved model per family."""
    found = {}
    for build in FIELDS:
        found[build] = tmp_path_factory.mktemp(build.__name__)
        build().save_pretrained(found[build])
    return found


def short(error: GrailError) -> None:
    text = str(error)
    assert 20 < len(text) < 1000 and "\n" not in text and "0" * 50 not in text and "[[[[" not in text


@pytest.mark.parametrize(("build", "field", "name"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_a_configuration_is_refused_or_loads(
    build: Any, field: str, name: str, folders: dict[Any, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders[build], folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {field: VALUES[name]}), encoding="utf-8")
    try:
        found = inspect_model(load_skeleton(str(folder)))
        assert found["parameters"] > 0
    except GrailError as error:
        short(error)
    try:
        assert isinstance(load_model(folder, device="cpu"), PreTrainedModel)
    except GrailError as error:
        short(error)


TEXTS = {
    "empty": "",
    "list": "[]",
    "number": "3",
    "torn": '{"model_type": "llama"',
    "too deep": "[" * 100_000 + "]" * 100_000,
    "deep value": '{"model_type": "llama", "a": ' + "[" * 900 + "]" * 900 + "}",
    "digits": '{"model_type": "llama", "vocab_size": ' + "1" * 5000 + "}",
    "not a number": '{"model_type": "llama", "hidden_size": NaN}',
    "not UTF-8": b"\xff\xfe{}",
    "null byte": '{"model_type": "ll\\u0000ama"}',
    "no type": "{}",
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_config_file_is_refused(name: str, tmp_path: Path) -> None:
    text = TEXTS[name]
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    for read in (load_config, load_model):
        with pytest.raises(GrailError) as caught:
            read(tmp_path)
        short(caught.value)


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small compressed checkpoint."""
    folder = tmp_path_factory.mktemp("compressed") / "small"
    GrailCompressor(tiny_llama(), {"preset": "magnitude", "ffn_sparsity": 0.5}).compress(save_directory=folder)
    return folder


def write(folder: Path, file: str, data: bytes) -> None:
    path = folder / file
    if path.exists():
        path.unlink()
    path.write_bytes(data)


def link(folder: Path, file: str) -> None:
    path = folder / file
    if path.exists():
        path.unlink()
    path.symlink_to(path.name)


def directory(folder: Path, file: str) -> None:
    path = folder / file
    if path.exists():
        path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path, str], None]] = {
    "empty": lambda folder, file: write(folder, file, b""),
    "binary": lambda folder, file: write(folder, file, bytes(range(256)) * 20),
    "torn": lambda folder, file: write(folder, file, (folder / file).read_bytes()[:57]),
    "list": lambda folder, file: write(folder, file, b"[1, 2]"),
    "deep": lambda folder, file: write(folder, file, b"[" * 100_000),
    "yaml": lambda folder, file: write(folder, file, b"---\n- {a: [\n---\n# x\n"),
    "yaml list": lambda folder, file: write(folder, file, b"---\n- a\n---\n# x\n"),
    "tags": lambda folder, file: write(folder, file, b"---\ntags: 5\nlicense: [1]\nmodel-index: 3\n---\n# x\n"),
    "link to itself": link,
    "a folder": directory,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["grail_report.json", "README.md", "config.json", "grail_config.json", PLAN_TENSORS])
def test_card_push_and_evaluate_of_a_damaged_checkpoint(
    file: str, damage: str, compressed: Path, cli: Any, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    folder = tmp_path / "small"
    shutil.copytree(compressed, folder)
    DAMAGES[damage](folder, file)
    for words in (
        ("card", folder),
        ("push", folder, "me/small"),
        ("convert-adapter", "-m", folder, "--adapter", folder, "-o", tmp_path / "out"),
        ("recover", "-m", folder, "-o", tmp_path / "out", "--base-model", folder / "none"),
    ):
        code = cli("grail", *words)
        shown = capsys.readouterr().err
        assert code in (0, 2) and "Traceback" not in shown, shown
        if code == 2:
            line = shown.strip().splitlines()[-1]
            assert line.startswith("Error: ") and len(line) < 1000, line


LONG, LOOP = "x" * 5000, "loop"


@pytest.mark.parametrize(
    "place", [LONG, f"/tmp/{LONG}", f"a/{LONG}", "loop", "loop/inside", "a\x01b", "~no-such-user/x", " "]
)
@pytest.mark.parametrize(
    "words",
    [
        ("compress", "-m", "{}", "-o", "out"),
        ("compress", "-m", "model", "-o", "{}", "--preset", "magnitude"),
        ("compress", "-m", "model", "-o", "out", "--dataset", "{}"),
        ("compress", "-m", "model", "-o", "out", "--config", "{}"),
        ("compress", "-m", "model", "-o", "out", "--preset", "magnitude", "--base-model", "{}"),
        ("evaluate", "-m", "{}", "--dataset", "x.txt", "--metric", "perplexity"),
        ("evaluate", "-m", "model", "--dataset", "{}", "--metric", "perplexity"),
        ("inspect", "-m", "{}"),
        ("card", "{}"),
        ("push", "{}", "me/small"),
        ("recover", "-m", "{}", "-o", "out"),
        ("convert-adapter", "-m", "model", "--adapter", "{}", "-o", "out"),
    ],
    ids=lambda words: " ".join(words),
)
def test_endless_names_and_circles(
    words: tuple[str, ...],
    place: str,
    folders: dict[Any, Path],
    cli: Any,
    capsys: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    shutil.copytree(folders[tiny_llama], "model")
    code = cli("grail", *(word.replace("{}", place) for word in words))
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    if code:
        line = shown.strip().splitlines()[-1]
        assert code == 2 and len(line) < 1100 and re.search(r"[Ee]rror: ", line), line


@pytest.mark.parametrize(
    "assignment",
    [
        torch.tensor([0.5, 1.0]),
        torch.tensor([], dtype=torch.int64),
        torch.tensor(3),
        torch.tensor([[0, 1]]),
        torch.tensor([0, 10**18]),
        torch.tensor([-7, 0]),
        torch.tensor([True, False]),
    ],
    ids=str,
)
def test_plans_that_are_none(assignment: torch.Tensor, tmp_path: Path) -> None:
    save_file({"model.layers.0.mlp.assignment": assignment}, tmp_path / PLAN_TENSORS)
    with pytest.raises(GrailError, match="what no reduction can be"):
        load_reductions(tmp_path)


def test_a_card_does_not_follow_a_link_out_of_the_folder(compressed: Path, tmp_path: Path) -> None:
    folder, outside = tmp_path / "small", tmp_path / "precious.txt"
    shutil.copytree(compressed, folder)
    outside.write_text("precious")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(outside)
    rewrite_card(folder)
    assert outside.read_text() == "precious" and not (folder / "README.md").is_symlink()
    assert Report.load(folder).model_class == "LlamaForCausalLM"
