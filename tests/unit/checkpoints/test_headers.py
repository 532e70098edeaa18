"""Pickled weights are read only if they are allowed by name."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from optimum_grail.adapters import convert_adapter
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.auto import GrailModelForCausalLM
from optimum_grail.checkpoints.headers import Stored, local_weights, refuse_pickles, stored_weights
from optimum_grail.checkpoints.loading import load_config, load_model
from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import CheckpointError


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """A model as it was saved before safetensors."""
    model = tiny_llama()
    model.config.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    return tmp_path


DOORS: dict[str, Callable[..., Any]] = {
    "load_model": load_model,
    "compressor": GrailCompressor.from_pretrained,
    "auto class": GrailModelForCausalLM.from_pretrained,
}


@pytest.mark.parametrize("door", DOORS)
def test_pickles_are_refused_unless_asked_for(door: str, pickled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
        with pytest.raises(CheckpointError, match=r"pickled.*allow_pickle=True \(--allow-pickle\)"):
            DOORS[door](pickled)
    assert DOORS[door](pickled, allow_pickle=True) is not None


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("code of the file was run",)


def test_even_then_nothing_but_tensors_is_read(pickled: Path) -> None:
    trap = io.BytesIO()
    pickle.dump({"model.norm.weight": Trap()}, trap)
    (pickled / "pytorch_model.bin").write_bytes(trap.getvalue())
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(pickled, allow_pickle=True)


def test_safetensors_beside_them_are_read(pickled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_llama().save_pretrained(pickled)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    for allowed in (False, True):
        assert load_model(pickled, allow_pickle=allowed) is not None


def test_adapters(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    torch.save({}, tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="pickled"):
        convert_adapter(tmp_path, tmp_path / "out", tmp_path / "checkpoint")


def test_what_is_not_known_is_not_refused(tmp_path: Path) -> None:
    assert stored_weights(tmp_path) is None
    assert stored_weights("nobody/no-such-model") is None
    refuse_pickles(None, "x", allowed=False)
    refuse_pickles(Stored({"a": (1,)}, 4), "x", allowed=False)


def test_a_tilde_stands_for_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_llama().save_pretrained(tmp_path / "model")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert stored_weights("~/model") == local_weights("~/model") == stored_weights(tmp_path / "model") is not None
    assert load_config("~/model").model_type == "llama"
