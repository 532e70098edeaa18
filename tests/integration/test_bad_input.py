"""Bad requests and bad data: each kind ends with its own clear error, exit code 2, and nothing is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optimum_grail.architectures.clip import tiny_clip_vision
from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import DataError

FAST = ("--preset", "grail", "--num-samples", "6", "--seqlen", "32")
Refuse = Callable[..., tuple[str, str]]


@pytest.mark.parametrize(
    ("words", "value", "guess"),
    [
        (("--selector", "wnda"), "'wnda'", "'wanda'"),
        (("--selector", "magnitud:p=2"), "'magnitud'", "'magnitude'"),
        (("--compensator", "grail-pls"), "'grail-pls'", "'grail-plus'"),
        (("--allocation", "balancd"), "'balancd'", "'balanced'"),
        (("--preset", "grial-plus"), "'grial-plus'", "'grail-plus'"),
    ],
)
def test_unknown_names(
    words: tuple[str, ...], value: str, guess: str, embedded_llama: Path, cli: Any, capsys: Any
) -> None:
    assert cli("grail", "compress", "-m", embedded_llama, "-o", "never", *words) == 2
    shown = capsys.readouterr().err
    assert value in shown and f"Did you mean {guess}" in shown and "Available: " in shown
    assert "Loading weights" not in shown and not Path("never").exists()


@pytest.mark.parametrize("flag", ["--sparsity", "--ffn-sparsity", "--head-sparsity", "--channel-sparsity"])
@pytest.mark.parametrize("value", ["0", "1", "-0.5", "1.5", "50", "half", "nan", "inf"])
def test_sparsity_outside_its_range(flag: str, value: str, cli: Any, capsys: Any, embedded_llama: Path) -> None:
    assert cli("grail", "compress", "-m", embedded_llama, "-o", "never", flag, value) == 2
    shown = capsys.readouterr().err
    assert value in shown and "a number in (0, 1)" in shown and flag in shown
    assert not Path("never").exists()


@pytest.mark.parametrize("text_form", ["file", "self"])
@pytest.mark.parametrize(
    ("words", "value", "remedy"),
    [
        (("--ffn-sparsity", "0.9999"), "--ffn-sparsity 0.9999 leaves none of 512", "at most 0.998"),
        (("--head-sparsity", "0.95"), "--head-sparsity 0.95 leaves none of 6", "at most 0.833"),
        (("--sparsity", "0.99"), "A sparsity of 0.99 cannot be reached", "at most 0.95"),
        (("--sparsity", "0.9", "--round-to", "400"), "cannot be reached", "--round-to"),
        (("--channel-sparsity", "0.5"), "no groups of kind 'conv'", "--ffn-sparsity"),
        (("--sparsity", "0.5", "--allocation", "knapsack", "--standalone"), "free widths per layer", "--no-standalone"),
    ],
)
def test_request_that_cannot_be_met(
    words: tuple[str, ...], value: str, remedy: str, text_form: str, refuse: Refuse, embedded_llama: Path, text: Path
) -> None:
    data = ("--dataset", text) if text_form == "file" else ()
    kind, message = refuse(embedded_llama, "--num-samples", "6", "--seqlen", "32", *data, *words)
    assert kind == "BudgetError"
    assert value in message and remedy in message


@pytest.mark.parametrize("preset", ["grail", "grail-plus"])
def test_request_that_prunes_nothing(preset: str, refuse: Refuse, embedded_llama: Path, text: Path) -> None:
    words = ("--preset", preset, "--num-samples", "6", "--seqlen", "32", "--dataset", text)
    kind, message = refuse(embedded_llama, *words, "--ffn-sparsity", "0.0005", early=preset == "grail")
    assert kind == "BudgetError" and "prunes nothing" in message and "higher sparsity" in message


def test_two_budgets(refuse: Refuse, embedded_llama: Path) -> None:
    kind, message = refuse(embedded_llama, "--sparsity", "0.5", "--ffn-sparsity", "0.5")
    assert kind == "ConfigError" and "contradict" in message


def test_broken_configuration_file(refuse: Refuse, embedded_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    for content, words in (("{", "not JSON"), ("[]", "JSON object"), ('{"sparsity": 7}', "(0, 1)")):
        file.write_text(content, encoding="utf-8")
        kind, message = refuse(embedded_llama, "--config", file)
        assert kind == "ConfigError" and words in message
    kind, message = refuse(embedded_llama, "--config", tmp_path / "none.json")
    assert kind == "ConfigError" and "none.json" in message


@pytest.mark.parametrize("flag", ["--dataset", "--eval-dataset"])
@pytest.mark.parametrize("path", ["./no/such/rows.txt", "/no/such/folder", "rows.jsonl"])
def test_dataset_path_that_does_not_exist(
    path: str, flag: str, refuse: Refuse, embedded_llama: Path, text: Path
) -> None:
    kind, message = refuse(embedded_llama, *FAST, *(("--dataset", text) if flag != "--dataset" else ()), flag, path)
    assert kind == "DataError"
    assert repr(path) in message and "does not exist" in message and "spelling" in message


def test_dataset_path_that_does_not_exist_in_python(embedded_llama: Path) -> None:
    compressor = GrailCompressor.from_pretrained(embedded_llama, {"preset": "grail"})
    with pytest.raises(DataError, match=r"'\./no/such/rows\.txt' does not exist"):
        compressor.compress("./no/such/rows.txt")


def test_dataset_id_out_of_reach(refuse: Refuse, embedded_llama: Path) -> None:
    kind, message = refuse(embedded_llama, *FAST, "--dataset", "nobody/no-such-dataset")
    assert kind == "DataError"
    assert "'nobody/no-such-dataset'" in message and "network" in message and "local file" in message


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def pictures(folder: Path) -> Path:
    from PIL import Image

    (folder / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "pictures" / "one.png")
    return folder / "pictures"


DATA: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty": (lambda folder: write(folder / "e.txt", b""), "empty|0 tokens|0 windows"),
    "blank": (lambda folder: write(folder / "b.txt", b"\n \n\n"), "windows"),
    "short": (
        lambda folder: write(folder / "s.txt", b"Only a few words."),
        r"which is 0 windows of seqlen=32; expected 6",
    ),
    "numbers": (lambda folder: write(folder / "n.csv", b"a,b\n1,2\n3,4\n"), "no text column.*--text-column"),
    "binary": (lambda folder: write(folder / "x.txt", bytes(range(256)) * 40), "cannot be read"),
    "broken": (lambda folder: write(folder / "x.parquet", b"no parquet"), "cannot be read"),
    "ending": (lambda folder: write(folder / "x.docx", b"words"), "not a dataset file.*parquet"),
    "nothing": (lambda folder: folder, "holds no dataset files"),
    "images": (pictures, "no text column"),
}


@pytest.mark.parametrize("name", DATA)
def test_unusable_data(name: str, refuse: Refuse, embedded_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    make, words = DATA[name]
    path = make(folder)
    kind, message = refuse(embedded_llama, *FAST, "--dataset", path)
    assert kind == "DataError"
    assert re.search(words, message), message
    assert path.name in message or name in ("numbers", "images")


def test_unusable_data_in_memory(embedded_llama: Path) -> None:
    for data, words in (
        ([], "is empty"),
        (3, "not a dataset"),
        ([1, 2, 3], "text"),
        ([{"labels": [1]}], "no text column"),
        (["a few words"], "windows"),
    ):
        compressor = GrailCompressor.from_pretrained(
            embedded_llama, {"preset": "grail", "num_samples": 4, "seqlen": 16}
        )
        with pytest.raises(ValueError, match=words):
            compressor.compress(data)


@pytest.mark.parametrize("data", ["file", "self"])
def test_seqlen_above_the_positions(data: str, refuse: Refuse, embedded_llama: Path, text: Path) -> None:
    words = ("--dataset", text) if data == "file" else ()
    kind, message = refuse(embedded_llama, "--seqlen", "1025", *words)
    assert kind == "DataError"
    assert "seqlen=1025" in message and "1024 positions" in message and "--seqlen 1024" in message


def test_a_class_that_no_metric_measures(text: Path) -> None:
    compressor = GrailCompressor(tiny_clip_vision(), {"preset": "magnitude"})
    with pytest.raises(DataError, match=r"CLIPVisionModelWithProjection.*--eval-dataset.*grail evaluate --metric"):
        compressor.compress(eval_dataset=str(text))


def test_missing_column(refuse: Refuse, embedded_llama: Path, text: Path) -> None:
    kind, message = refuse(embedded_llama, *FAST, "--dataset", text, "--text-column", "body")
    assert kind == "DataError" and "'body'" in message and "['text']" in message and "--text-column" in message


def test_missing_split(refuse: Refuse, embedded_llama: Path, text: Path) -> None:
    kind, message = refuse(embedded_llama, *FAST, "--dataset", text, "--split", "dev")
    assert kind == "DataError" and "'dev'" in message and "['train']" in message and "--split" in message


def test_self_written_text_of_an_encoder(refuse: Refuse, minilm: Path) -> None:
    for words in ((), ("--dataset", "self")):
        kind, message = refuse(minilm, *FAST, *words)
        assert kind == "DataError" and "--dataset" in message and "causal" in message.lower()
