"""``optimum-cli grail card``: rendered again from the report."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import ModelCard

from optimum_grail.hub.card import write_card
from optimum_grail.report.report import Report


@pytest.fixture
def folder(report, tmp_path):
    report.save(tmp_path)
    write_card(report, tmp_path, inherited={"license": "mit"})
    return tmp_path


def test_what_the_report_says_now_is_on_the_card(folder, report, cli, capsys):
    values = json.loads(report.to_json())
    values["parameters_after"] = 777
    (folder / "grail_report.json").write_text(json.dumps(values))
    assert cli("grail", "card", str(folder), "--title", "Mine", "--tag", "one", "--tag", "two") == 0
    card = ModelCard.load(folder / "README.md")
    assert "| parameters | 1,000 | 777 |" in card.text and "# Mine" in card.text
    assert card.data.license == "mit" and card.data.tags[-2:] == ["one", "two"]
    assert f"Written to {folder / 'README.md'}" in capsys.readouterr().out


def test_rendering_again_changes_nothing_else(folder, cli):
    before = (folder / "README.md").read_bytes()
    assert cli("grail", "card", str(folder)) == 0
    assert (folder / "README.md").read_bytes() == before


def test_the_base_model_is_noted_for_good(folder, cli):
    words = ("--base-model", "org/base", "--revision", "abc123", "--license", "apache-2.0")
    assert cli("grail", "card", str(folder), *words) == 0
    card = ModelCard.load(folder / "README.md")
    assert (card.data.base_model, card.data["base_model_revision"]) == ("org/base", "abc123")
    assert card.data["base_model_relation"] == "finetune" and card.data.license == "apache-2.0"
    assert cli("grail", "card", str(folder)) == 0
    assert ModelCard.load(folder / "README.md").data.base_model == "org/base"
    assert Report.load(folder).base_model == "org/base"


@pytest.mark.parametrize("name", ["./here", "/home/me/model", "a/b/c"])
def test_a_path_is_no_base_model(folder, cli, capsys, name):
    before = (folder / "README.md").read_bytes(), (folder / "grail_report.json").read_bytes()
    assert cli("grail", "card", str(folder), "--base-model", name) == 2
    assert "no model on the Hub" in capsys.readouterr().err
    assert ((folder / "README.md").read_bytes(), (folder / "grail_report.json").read_bytes()) == before


def test_without_a_report_there_is_no_card(cli, tmp_path, capsys):
    assert cli("grail", "card", str(tmp_path)) == 2
    assert "Cannot read the report" in capsys.readouterr().err
