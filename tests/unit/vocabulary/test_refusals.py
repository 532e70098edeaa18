"""What is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from optimum_grail import Wishes, trim_vocabulary
from optimum_grail.errors import CheckpointError, ConfigError, DataError, OutputError

TEXTS = ["It was the best of times, it was the worst of times, it was the age of wisdom."]


def refused(kind: type[Exception], message: str, model: Path, folder: Path, data: Any = None, **more: Any) -> None:
    there = sorted(folder.rglob("*"))
    with pytest.raises(kind, match=message):
        trim_vocabulary(model, folder / "small", TEXTS if data is None else data, **more)
    assert sorted(folder.rglob("*")) == there


def test_an_output_that_exists(embedded_llama: Path, tmp_path: Path) -> None:
    trim_vocabulary(embedded_llama, tmp_path / "small", [*TEXTS])
    refused(OutputError, "--overwrite", embedded_llama, tmp_path)
    trim_vocabulary(embedded_llama, tmp_path / "small", [*TEXTS], overwrite=True)


def test_no_tokenizer_and_a_slow_one(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimum_grail.vocabulary.trim.load_processors", lambda _: (object(), None))
    refused(DataError, r"has a slow tokenizer \(object\).*Convert it", model, tmp_path)
    monkeypatch.undo()
    (model / "tokenizer.json").unlink()
    refused(DataError, "has no tokenizer", model, tmp_path)


def test_a_tokenizer_of_another_kind(model: Path, tmp_path: Path) -> None:
    values = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "decoder": None}
    kind = {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1}, "unk_token": "<unk>"}
    values |= {"truncation": None, "padding": None, "post_processor": None, "model": kind}
    (model / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json")).save_pretrained(model)
    refused(CheckpointError, "of the kind WordLevel", model, tmp_path)


def test_more_tokens_than_rows(model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(model)
    refused(CheckpointError, "has the token 4096, but the embedding has 4,096 rows. Resize", model, tmp_path)


def test_a_tokenizer_that_does_something_else_when_it_is_loaded(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = AutoTokenizer.from_pretrained(model)
    monkeypatch.setattr("optimum_grail.vocabulary.writing._loaded", lambda _: dense)
    refused(CheckpointError, "has other tokens than it should", model, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr("optimum_grail.vocabulary.trim.passed_over", lambda *_: frozenset())
    monkeypatch.setattr("optimum_grail.vocabulary.trim.count", lambda *_: {})
    refused(CheckpointError, "splits the data differently", model, tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("self", "'self' is text that a model writes"),
        ("no-such-file.txt", "does not exist"),
        ([{"input_ids": [1, 2]}], "holds inputs of a model"),
        ([" ", ""], "blank rows only"),
    ],
)
def test_data_that_is_no_text(data: Any, message: str, embedded_llama: Path, tmp_path: Path) -> None:
    refused(DataError, message, embedded_llama, tmp_path, data)


def test_a_token_that_is_none(embedded_llama: Path, tmp_path: Path) -> None:
    refused(ConfigError, "not in the vocabulary", embedded_llama, tmp_path, wishes=Wishes(keep=["the cat"]))


def test_a_model_of_the_hub_that_is_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(CheckpointError, "neither a local folder nor a model that the Hub gives", Path("nobody/nothing"), tmp_path)
    monkeypatch.setattr("optimum_grail.vocabulary.trim.load_config", lambda _: None)
    refused(CheckpointError, "'nobody/nothing' cannot be fetched", Path("nobody/nothing"), tmp_path)
