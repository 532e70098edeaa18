"""Tables that anyone may have written are refused in a few words, before a weight is read or a tensor made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.checkpoints.plain_modules import load_compressed_, save_compressed
from optimum_grail.core.spec import ArchitectureSpec, Mlp
from optimum_grail.errors import CheckpointError
from optimum_grail.models.hook import install
from optimum_grail.models.resize import resize_
from optimum_grail.models.resolve import resolve
from optimum_grail.models.table import unique_keys

install()
HUGE = 10**18


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"0": value}
    return value


HOSTILE: dict[str, Any] = {
    "not a dictionary": "layers",
    "a list": [{"layers": {}}],
    "a number": 7,
    "layers a path": {"layers": "../../etc/passwd"},
    "layers a list": {"layers": [{"intermediate_size": 3}]},
    "a path as layer": {"layers": {"../../0": {"intermediate_size": 3}}},
    "an absolute path": {"layers": {"/model/layers/0": {"intermediate_size": 3}}},
    "an unknown layer": {"layers": {"3": {"intermediate_size": 3}}},
    "a negative layer": {"layers": {"-1": {"intermediate_size": 3}}},
    "a layer with a zero in front": {"layers": {"00": {"intermediate_size": 3}}},
    "a layer with a space": {"layers": {" 0": {"intermediate_size": 3}}},
    "a layer in other digits": {"layers": {"٠": {"intermediate_size": 3}}},
    "an unknown field": {"layers": {"0": {"vocab_size": 3}}},
    "an attribute": {"layers": {"0": {"__dict__": 3}}},
    "a huge width": {"layers": {"0": {"intermediate_size": HUGE}}},
    "huge heads": {"layers": {"0": {"num_attention_heads": 2 * HUGE, "num_key_value_heads": HUGE}}},
    "a negative width": {"layers": {"0": {"intermediate_size": -HUGE}}},
    "a fraction": {"layers": {"0": {"intermediate_size": 3.5}}},
    "infinity": {"layers": {"0": {"intermediate_size": float("inf")}}},
    "a width in words": {"layers": {"0": {"intermediate_size": "24; import os"}}},
    "a width as list": {"layers": {"0": {"intermediate_size": [24]}}},
    "half a pair": {"layers": {"0": {"num_attention_heads": 4}}},
    "deep": {"layers": nested(900)},
    "a million layers": {"layers": {str(10**6 + index): {} for index in range(10**6)}},
    "a long name": {"layers": {"x" * 10**7: {"intermediate_size": 3}}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_in_a_few_words_and_nothing_is_made(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama()
    model.config.grail_config = HOSTILE[name]
    before = {key: (id(tensor), tensor.shape) for key, tensor in model.named_parameters()}
    monkeypatch.setattr("optimum_grail.models.resize.narrow_", lambda *_: pytest.fail("narrowed something"))
    with pytest.raises(CheckpointError) as error:
        resize_(model)
    assert len(str(error.value)) < 400 and "download or compress it again" in str(error.value)
    assert {key: (id(tensor), tensor.shape) for key, tensor in model.named_parameters()} == before


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ("deep", "a million layers", "a long name")])
def test_a_checkpoint_is_refused_before_its_weights_are_read(name: str, tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["grail_config"] = HOSTILE[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(CheckpointError):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_a_sound_entry_is_not_applied_without_the_others() -> None:
    model = tiny_llama()
    model.config.grail_config = {"layers": {"0": {"intermediate_size": 24}, "1": {"intermediate_size": -1}}}
    with pytest.raises(CheckpointError, match="expected a width"):
        resize_(model)
    assert model.model.layers[0].mlp.down_proj.in_features == 48


WORDS = st.sampled_from(["0", "1", "2", "layers", "intermediate_size", "num_attention_heads", "num_key_value_heads"])
LEAVES = st.none() | st.booleans() | st.integers(-2, 60) | st.floats() | st.text(max_size=3) | st.just(HUGE)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4))
ROWS = st.dictionaries(WORDS, st.integers(1, 50) | LEAVES, max_size=3)
TABLES = VALUES | st.fixed_dictionaries({"layers": st.dictionaries(WORDS, ROWS | VALUES, max_size=3)})


@settings(max_examples=150, deadline=None)
@given(TABLES)
def test_whatever_the_table_the_model_is_refused_or_sound(table: Any) -> None:
    with torch.device("meta"):
        model = tiny_llama()
    dense = sum(parameter.numel() for parameter in model.parameters())
    model.config.grail_config = table
    try:
        resize_(model)
    except CheckpointError:
        return
    assert sum(parameter.numel() for parameter in model.parameters()) <= dense
    for layer in model.model.layers:
        assert layer.mlp.up_proj.out_features == layer.mlp.down_proj.in_features <= 48
        assert layer.self_attn.q_proj.out_features == layer.self_attn.o_proj.in_features


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)


SPEC = ArchitectureSpec(model_types=(), blocks=("*",), groups=(Mlp(produce=("up",), consume="down", stream="@block"),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"layers": {"0": {"width": 4}, "0": {"width": 6}}}', "the key '0' stands twice"),
        ('{"layers": {}, "layers": {"0": 1}}', "the key 'layers' stands twice"),
        ('{"layers":' + "[" * 100_000 + "]" * 100_000 + "}", "Cannot read"),
        ("{", "Cannot read"),
        ("[1]", "expected a dictionary"),
    ],
    ids=["layer twice", "table twice", "deep", "torn", "list"],
)
def test_broken_files_of_own_modules(text: str, message: str, tmp_path: Path) -> None:
    module = nn.Sequential(Block())
    save_compressed(module, tmp_path, resolve(module, SPEC))
    (tmp_path / "grail_layers.json").write_text(text)
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(CheckpointError, match=message):
        load_compressed_(module, tmp_path, SPEC)


def test_of_a_key_that_stands_twice_the_last_is_checked(tmp_path: Path) -> None:
    """config.json is read by transformers, for which the last one counts."""
    tiny_llama().save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text().rstrip().removesuffix("}")
    tables = ({"layers": {"0": {"intermediate_size": width}}} for width in (24, HUGE))
    good, bad = (f'"grail_config": {json.dumps(table)}' for table in tables)
    (tmp_path / "config.json").write_text(f"{text}, {good}, {bad}}}")
    with pytest.raises(CheckpointError, match="above the 48"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_keys_that_stand_once_are_kept() -> None:
    assert json.loads('{"a": {"b": 1}, "c": 2}', object_pairs_hook=unique_keys) == {"a": {"b": 1}, "c": 2}
