"""``optimum-cli grail report``: a page, or one line that says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optimum_grail.report.report import Report


def test_the_page_is_written(report: Report, tmp_path: Path, cli: Any, capsys: Any) -> None:
    report.save(tmp_path)
    page = tmp_path / "report.html"
    assert cli("grail", "report", str(tmp_path), "-o", str(page), "--title", "Mine") == 0
    assert f"Written to {page}" in capsys.readouterr().out and "<title>Mine</title>" in page.read_text()
    assert cli("grail", "report", str(tmp_path), "-o", str(page), "--overwrite", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(page)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("none", "-o", "x.html"), "no folder"),
        ((".", "-o", "x.html"), "holds no grail_report.json"),
        ((".", "-o", "."), "is a folder"),
        ((".", "-o", "x.html", "--prompt", "Once"), "--prompt and --reference go together"),
        ((".", "-o", "x.html", "--reference", "MODEL"), "--prompt and --reference go together"),
    ],
)
def test_refusals(
    words: tuple[str, ...], message: str, tmp_path: Path, cli: Any, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("grail", "report", *words) == 2
    assert message in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_both_models_write(report: Report, embedded_llama: Path, tmp_path: Path, cli: Any) -> None:
    """The dense model stands for its compressed self here: both texts are the same."""
    for file in embedded_llama.iterdir():
        (tmp_path / file.name).symlink_to(file)
    report.save(tmp_path)
    page = tmp_path / "report.html"
    words = ("--prompt", "Once upon a time", "--reference", str(embedded_llama))
    assert cli("grail", "report", str(tmp_path), "-o", str(page), *words) == 0
    (sample,) = Report.load(tmp_path).extra["samples"]
    assert sample["prompt"] == "Once upon a time" and sample["dense"] == sample["compressed"] != ""
    page.unlink()
    assert cli("grail", "report", str(tmp_path), "-o", str(page)) == 0
    assert "What they write" in page.read_text()


def test_a_model_that_does_not_write(report: Report, minilm: Path, tmp_path: Path, cli: Any, capsys: Any) -> None:
    report.save(tmp_path)
    words = ("--prompt", "Once", "--reference", str(minilm))
    assert cli("grail", "report", str(tmp_path), "-o", str(tmp_path / "x.html"), *words) == 2
    assert "does not write text" in capsys.readouterr().err
