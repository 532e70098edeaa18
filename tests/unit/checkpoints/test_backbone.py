"""Checkpoints of a backbone whose config names a class with a head."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from optimum_grail.architectures.bert import tiny_bert, tiny_roberta
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.errors import CheckpointError

Named = Callable[[Path, str], Path]


@pytest.fixture(name="named")
def _named() -> Named:
    """Write another class into ``config.json``."""

    def named(folder: Path, kind: str) -> Path:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "architectures": [kind]}))
        return folder

    return named


def test_what_is_stored_is_loaded(named: Named, tmp_path: Path) -> None:
    model = tiny_bert()
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="names a BertForMaskedLM, but only a BertModel is stored"):
        found = load_model(named(tmp_path, "BertForMaskedLM"))
    assert type(found).__name__ == "BertModel"
    state = found.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_saved_again_it_names_its_class(named: Named, tmp_path: Path) -> None:
    tiny_bert().save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="only a BertModel"):
        load_model(named(tmp_path, "BertForSequenceClassification")).save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["architectures"] == ["BertModel"]


def test_a_head_of_which_something_is_stored_is_missed(tmp_path: Path) -> None:
    tiny_roberta().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(
        {name: value for name, value in load_file(file).items() if "out_proj" not in name}, file, {"format": "pt"}
    )
    with pytest.raises(CheckpointError, match=r"2 weights are missing .*'classifier\.out_proj\.bias'"):
        load_model(tmp_path)


def test_a_language_model_is_nothing_without_its_head(named: Named, tmp_path: Path) -> None:
    tiny_llama().model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="1 weights are missing"):
        load_model(named(tmp_path, "LlamaForCausalLM"))


def test_a_whole_model_is_loaded_as_it_is(tmp_path: Path) -> None:
    model = tiny_roberta()
    model.save_pretrained(tmp_path)
    assert type(load_model(tmp_path)) is type(model)
