"""``grail inspect --propose`` and ``--map``, on a family that no registered map serves."""

from __future__ import annotations

import json

import pytest
from transformers import PersimmonConfig

from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.proposals.reading import read_maps

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture
def folder(tmp_path):
    assert "persimmon" not in ARCHITECTURES.names()
    PersimmonConfig(**SIZES, architectures=["PersimmonForCausalLM"]).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_a_refusal_names_the_remedy(folder, cli, capsys):
    assert cli("grail", "inspect", "-m", folder) == 2
    assert "inspect -m MODEL --propose" in capsys.readouterr().err


def test_proposed_written_used(folder, cli, capsys, tmp_path):
    file = tmp_path / "map.py"
    words = ("grail", "inspect", "-m", folder)
    assert cli(*words, "--propose", "-o", str(file), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["map"] == file.read_text() and found["output"] == str(file) and found["left_out"] == []
    (spec,) = read_maps(file)
    assert [group.name for group in spec.groups] == ["heads", "mlp"] and spec.depth_field == "num_hidden_layers"
    assert cli(*words, "--map", str(file), "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(row["kind"], row["groups"], row["units"]) for row in shown["families"]] == [
        ("heads", 4, 4),
        ("mlp", 4, 48),
    ]
    assert "persimmon" not in ARCHITECTURES.names(), "the map serves the one command only"

    file.write_text("# mine")
    assert cli(*words, "--propose", "-o", str(file)) == 2
    assert "--overwrite" in capsys.readouterr().err and file.read_text() == "# mine"


def test_printed_without_a_file(folder, cli, capsys):
    assert cli("grail", "inspect", "-m", folder, "--propose") == 0
    shown = capsys.readouterr().out
    assert "SPECS = (" in shown and "self_attn.dense" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "map.py"), "Add --propose"),
        (("--propose", "--map", "map.py"), "Leave one of them out"),
        (("--propose", "-o", "map.txt"), "is no Python file"),
        (("--propose", "-o", "nowhere/at/all/map.py"), "does not exist"),
        (("--map", "nowhere.py"), "is no Python file"),
    ],
)
def test_refused_at_once(words, message, folder, cli, capsys):
    assert cli("grail", "inspect", "-m", folder, *words) == 2
    assert message in capsys.readouterr().err


def test_compress_refuses_a_wrong_map_before_it_loads(folder, cli, capsys, tmp_path):
    (tmp_path / "map.py").write_text("SPECS = 3")
    assert cli("grail", "compress", "-m", folder, "-o", str(tmp_path / "out"), "--map", str(tmp_path / "map.py")) == 2
    assert "defines no SPECS" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
