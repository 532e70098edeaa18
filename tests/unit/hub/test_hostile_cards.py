"""What strangers wrote lands on a card as text, whatever it is."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from huggingface_hub import ModelCard

from optimum_grail.errors import CheckpointError, OutputError
from optimum_grail.hub.card import build_card, cell, plain, rewrite_card
from optimum_grail.hub.metadata import inherited_from
from optimum_grail.hub.publish import Upload, push_folder
from optimum_grail.report.report import Calibration, GroupRow

TAG = "<script>alert(1)</script>"
MARKUP = f"{TAG}\n\n# Heading\n[link](http://x) ![picture](http://y)\n```\nfence"


@pytest.mark.parametrize(
    "change",
    [
        {"model": MARKUP},
        {"warnings": (MARKUP,)},
        {"calibration": Calibration(MARKUP, notes=(MARKUP,))},
        {"evaluation": ({"metric": MARKUP, "dataset": MARKUP, "compressed": 1.0, "protocol": MARKUP},)},
        {"derived": ({"name": MARKUP, "metric": "m", "dataset": MARKUP, "value": 1.0, "bytes": 1},)},
        {"groups": (GroupRow(MARKUP, "mlp", 4, 2, 0.1, 0.2),)},
        {"versions": {"python": MARKUP}},
        {"hardware": {"processor": MARKUP, "cores": 1}},
        {"command": f"optimum-cli grail compress -m '{MARKUP}'"},
        {"budget": MARKUP, "asked": {"sparsity": 0.5, MARKUP: 0.5}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_markup_is_text(change: dict[str, Any], report: Any) -> None:
    body = build_card(dataclasses.replace(report, **change), present=[]).text
    fences = [line for line in body.splitlines() if line.startswith("```")]
    assert len(fences) == len([line for line in build_card(report, present=[]).text.splitlines() if line[:3] == "```"])
    prose = "".join(body.split("\n```")[::2])  # between the blocks of code
    assert "<script" not in prose and "\n# Heading" not in body and "[link]" not in prose.replace("\\[link]", "")


def test_what_a_shell_would_run_is_quoted(report: Any) -> None:
    hostile = dataclasses.replace(report, model="x; rm -rf ~", command="optimum-cli grail compress -m x; curl y | sh")
    text = build_card(hostile).text
    assert "compress -m 'x; rm -rf ~' -o compressed" in text
    assert "optimum-cli grail compress -m 'x;' curl y '|' sh" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a  b\nc", "a b c"),
        ("<b>", "&lt;b>"),
        ("# x", "\\# x"),
        ("- x", "\\- x"),
        ("a [1, 2]", "a \\[1, 2]"),
        (3, "3"),
        ("a & b < c", "a &amp; b &lt; c"),
    ],
)
def test_plain_text(value: Any, text: str) -> None:
    assert plain(value) == text
    assert cell("<|>`") == "&lt;\\|>'"


@pytest.mark.parametrize(
    "text", ["---\n{a: [\n---\n", "---\n- a\n---\n", "---\nlicense: [1]\nlanguage: 3\n---\n", "\0"]
)
def test_damaged_cards_state_no_licence(text: str, tmp_path: Any) -> None:
    (tmp_path / "README.md").write_text(text)
    assert inherited_from(tmp_path) == {}


def test_a_damaged_card_is_written_again_and_not_published(report: Any, tmp_path: Any, monkeypatch: Any) -> None:
    report.save(tmp_path)
    (tmp_path / "README.md").write_bytes(b"\xff\xfe---\n")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **__: type("Repo", (), {"repo_id": "me/x"}))
    with pytest.raises(CheckpointError, match=r"cannot be read as a card .*grail card"):
        push_folder(tmp_path, Upload("me/x", token="hf_x"))
    rewrite_card(tmp_path)
    assert ModelCard.load(tmp_path / "README.md").text


def test_a_folder_in_the_place_of_the_card(report: Any, tmp_path: Any) -> None:
    report.save(tmp_path)
    (tmp_path / "README.md").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        rewrite_card(tmp_path)
