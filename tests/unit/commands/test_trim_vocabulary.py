"""``optimum-cli grail trim-vocabulary``: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
import re

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("It was the best of times, it was the worst of times.\n", encoding="utf-8")
    return path


def test_what_is_printed_and_written(cli, capsys, embedded_llama, text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("Something completely different, surprisingly.\n", encoding="utf-8")
    words = ["-m", embedded_llama, "-o", tmp_path / "small", "-d", text, "--eval-dataset", other, "--round-to", "32"]
    assert cli("grail", "trim-vocabulary", *map(str, words)) == 0
    shown = capsys.readouterr().out
    assert re.search(r"tokens +4,096 +\d{3} +-\d\d\.\d\d%", shown)
    assert re.search(r"bytes of the model +6,443,904 +[\d,]+ +-\d\d\.\d\d%", shown)
    assert "100.00%" in shown and "tokens stay: used by the data" in shown
    assert shown.rstrip().endswith(f"Written to {tmp_path / 'small'}")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "small").config.vocab_size % 32 == 0
    assert len(AutoTokenizer.from_pretrained(tmp_path / "small")) < 400


def test_a_dry_run_as_json(cli, capsys, embedded_llama, text, tmp_path):
    keep = tmp_path / "keep.txt"
    keep.write_text("Ġmorning\n\n", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    words = ["-m", embedded_llama, "--dataset", text, "general/code", "--dry-run", "--json"]
    assert cli("grail", "trim-vocabulary", *map(str, words), "--keep", str(keep), "--keep-tokens", "Ġevening") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["output"] is None and result["reasons"]["asked for"] == 2
    assert [found["name"] for found in result["data"]] == [str(text), "general/code"]
    assert sorted(tmp_path.rglob("*")) == before


def test_refusals(cli, capsys, embedded_llama, text, tmp_path):
    def message(*words):
        assert cli("grail", "trim-vocabulary", "-m", str(embedded_llama), "-d", str(text), *map(str, words)) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "--dry-run" in message()
    assert "min_count=0" in message("-o", tmp_path / "small", "--min-count", "0")
    assert "cannot be read" in message("-o", tmp_path / "small", "--keep", tmp_path / "none")
    assert "nothing in it says that optimum-grail wrote it" in message("-o", tmp_path, "--overwrite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.txt"]
