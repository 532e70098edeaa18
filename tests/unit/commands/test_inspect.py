"""``optimum-cli grail inspect``, on models that consist of a config only."""

from __future__ import annotations

import json

import pytest

from optimum_grail.architectures.bert import SPECS as BERT
from optimum_grail.architectures.bloom import MPT
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.stablelm import STABLELM
from optimum_grail.checkpoints.loading import load_skeleton
from optimum_grail.commands._inspection import inspect_model
from optimum_grail.errors import ArchitectureError, CheckpointError


@pytest.fixture
def llama(tmp_path):
    model = tiny_llama()
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    return tmp_path, model


def test_reads_the_config_only(llama):
    folder, model = llama
    skeleton = load_skeleton(str(folder))
    assert type(skeleton) is type(model)
    assert all(parameter.is_meta for parameter in skeleton.parameters())


def test_counts_and_widths(llama):
    folder, model = llama
    found = inspect_model(load_skeleton(str(folder)))
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert not found["compressed"]
    rows = {row["kind"]: row for row in found["families"]}
    assert rows["mlp"]["expressible"] == list(range(1, 49))
    assert rows["heads"]["expressible"] == [1, 2, 4]
    assert (rows["mlp"]["groups"], rows["mlp"]["units"], rows["mlp"]["parameters_per_unit"]) == (3, 48, 96)
    assert rows["mlp"]["parameters"] == 3 * 48 * 96
    assert (rows["mlp"]["quantizer_step"], rows["heads"]["quantizer_step"]) == (32, 4), "heads of 8"
    assert len(found["groups"]) == 6
    assert 0.8 < found["largest_sparsity"] < 1
    assert found["largest_standalone_sparsity"] == found["largest_sparsity"]


def test_what_a_stock_config_cannot_say():
    found = inspect_model(BERT[0].example())
    rows = {row["kind"]: row for row in found["families"]}
    assert rows["heads"]["expressible"] == [rows["heads"]["units"]]
    assert found["largest_standalone_sparsity"] < found["largest_sparsity"]


def test_what_cannot_go_and_why(tmp_path, cli, capsys):
    for spec, without in ((MPT, True), (STABLELM, False)):
        found = inspect_model(spec.example())
        assert [item["kind"] for item in found["impossible"]] == ["heads"] * without, "said only where there are none"
    model = MPT.example()
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    assert cli("grail", "inspect", "-m", str(tmp_path)) == 0
    assert "No heads can go. ALiBi gives each head a slope" in " ".join(capsys.readouterr().out.split())


def test_command(llama, cli, capsys):
    assert cli("grail", "inspect", "-m", str(llama[0])) == 0
    shown = capsys.readouterr().out
    assert "any" in shown and "1, 2, 4" in shown and "Sparsity can reach" in shown
    assert "FFN channels" in shown and "unit" not in shown and "group" not in shown


def test_says_whether_there_were_weights_to_compare_sizes_with(llama, cli, capsys):
    folder, model = llama
    for expected in (False, True):
        assert cli("grail", "inspect", "-m", str(folder)) == 0
        assert ("no weights were there" in " ".join(capsys.readouterr().out.split())) is not expected
        assert cli("grail", "inspect", "-m", str(folder), "--json") == 0
        assert json.loads(capsys.readouterr().out)["compared_with_weights"] is expected
        model.save_pretrained(folder)


def test_json(llama, cli, capsys):
    assert cli("grail", "inspect", "-m", str(llama[0]), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == str(llama[0])
    assert found["groups"][0]["producers"]


@pytest.mark.parametrize("name", ["nowhere-at-all", "./nowhere"])
def test_missing_model(name, cli, capsys):
    assert cli("grail", "inspect", "-m", name) == 2
    assert name in capsys.readouterr().err


def test_unknown_architecture_names_how_to_add_one(tmp_path, cli, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba", "architectures": ["MambaModel"]}))
    assert cli("grail", "inspect", "-m", str(tmp_path)) == 2
    shown = capsys.readouterr().err
    assert "mamba" in shown and "register_architecture" in shown


@pytest.mark.parametrize("text", ["{", "{}", '{"model_type": "no-such-type"}'])
def test_unreadable_config(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_skeleton(str(tmp_path))


def test_config_without_a_class(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ArchitectureError, match="names no class"):
        load_skeleton(str(tmp_path))


def test_dimensions_inside_heads(llama):
    folder, _ = llama
    found = inspect_model(load_skeleton(str(folder)))
    assert set(found["head_sizes"].values()) == {8} and found["rigid_heads"] == []
    other = inspect_model(BERT[0].example())
    assert other["head_sizes"] == {} and "no rotary positions" in other["rigid_heads"][0]
