"""Which page a folder gets, refusals, and that what strangers wrote is text."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from optimum_grail.errors import CheckpointError, OutputError
from optimum_grail.pages.folder import page_of, write_page
from optimum_grail.report.report import Calibration, GroupRow, Report, SourceRows
from tests.unit.pages.conftest import Parsed

MARKUP = (
    "\"'><script>alert(1)</script><img src=x onerror=alert(1)><style>@import 'http://x'</style>>{{ 7 * 7 }}<</title>"
)
VOCABULARY = {
    "tokens_before": 100,
    "tokens_after": 60,
    "rows_before": 104,
    "rows_after": 64,
    "bytes_before": 4000,
    "bytes_after": 3000,
    "reasons": {"of the text": 50, "bytes": 10},
    "data": [{"name": "/home/me/corpus.txt", "before": 900, "after": 900, "same": 900}],
    "evaluation": [{"name": "other.txt", "before": 500, "after": 550, "same": 465}],
    "versions": {"python": "3.12.1"},
    "kept": [0, 1, 2],
}


def hostile(report: Report) -> Report:
    """A report whose every text is markup."""
    return dataclasses.replace(
        report,
        model=MARKUP,
        groups=(GroupRow(MARKUP, "mlp", 4, 2, 0.1, 0.2), GroupRow("x", "mlp", 4, 2, 0.1, 0.2)),
        calibration=Calibration(MARKUP, notes=(MARKUP,), sources=(SourceRows(MARKUP), SourceRows(MARKUP))),
        evaluation=({"metric": MARKUP, "dataset": MARKUP, "dense": 1.0, "compressed": 1.0, "protocol": MARKUP},),
        derived=({"name": MARKUP, "metric": MARKUP, "dataset": MARKUP, "value": 1.0, "bytes": 1},),
        config={"selector": MARKUP, MARKUP: [MARKUP]},
        versions={MARKUP: MARKUP},
        hardware={"processor": MARKUP},
        warnings=(MARKUP,),
        command=f"optimum-cli grail compress -m '{MARKUP}'",
        seconds={MARKUP: 1.0},
        extra={"samples": [{"prompt": MARKUP, "dense": MARKUP, "compressed": "\ud800\0"}]},
    )


def is_harmless(html: str) -> None:
    """Nothing runs, nothing is loaded, and the page is the template's from its first tag to its last."""
    page = Parsed(html)
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "object", "embed", "link", "base", "form", "image", "use", "a"}
    assert len(page.named("style")) == 1 and len(page.named("h1")) == 1
    attributes = [(name, value) for _, found in page.tags for name, value in found.items()]
    assert not [name for name, _ in attributes if name.startswith("on") or name in ("src", "href", "xlink:href")]
    assert "url(" not in html and ">49<" not in html, "what looks like a template is none"
    (policy,) = (found["content"] for found in page.named("meta") if "Policy" in str(found.get("http-equiv")))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_a_hostile_report_is_text(report: Report, tmp_path: Path) -> None:
    hostile(report).save(tmp_path)
    (tmp_path / "<script>alert(2)<").write_text("a file")
    (tmp_path / "README.md").write_text(f"---\nlicense: {json.dumps(MARKUP)}\n---\n")
    target = write_page(tmp_path, tmp_path / "out" / "report.html", title=MARKUP)
    html = target.read_bytes().decode("utf-8")
    is_harmless(html)
    assert Parsed(html).text.count("<script>alert(1)</script>") > 15


def test_a_hostile_sweep_is_text(swept: dict[str, Any], tmp_path: Path) -> None:
    for row in swept["rows"]:
        row |= {"method": MARKUP, "notes": [MARKUP], "corpus": {"wiki": MARKUP}}
        row["result"]["sets"][MARKUP] = row["result"]["sets"].pop("wiki")
    swept["dense"]["result"]["sets"][MARKUP] = {"perplexity": 20.0}
    swept |= {"knees": {MARKUP: MARKUP}, "source": MARKUP, "versions": {MARKUP: MARKUP}, "metric": "perplexity"}
    (tmp_path / "sweep.json").write_text(json.dumps(swept))
    is_harmless(page_of(tmp_path).html())


def test_a_hostile_vocabulary_is_text(tmp_path: Path) -> None:
    values = VOCABULARY | {"reasons": {MARKUP: 1}, "versions": {MARKUP: MARKUP}}
    (tmp_path / "grail_vocabulary.json").write_text(json.dumps(values))
    is_harmless(page_of(tmp_path, title=MARKUP).html())


def test_a_trimmed_folder_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "grail_vocabulary.json").write_text(json.dumps(VOCABULARY))
    text = Parsed(page_of(tmp_path).html()).text
    assert "holds no report of a compression" in text and "100 → 60" in text
    assert "corpus.txt 900 900 +0.0 % 100.00%" in text and "other.txt 500 550 +10.0 % 93.00%" in text
    assert "/home" not in text and "of the text 50" in text


def test_a_report_goes_before_a_sweep(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    (tmp_path / "sweep.json").write_text("{}")
    assert page_of(tmp_path).template == "run.html.jinja"


@pytest.mark.parametrize("name", ["", "none"])
def test_a_folder_without_a_report(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"no folder|holds no grail_report\.json.*grail compress"):
        page_of(tmp_path / name)


@pytest.mark.parametrize("file", ["grail_report.json", "grail_vocabulary.json", "sweep.json"])
def test_damaged_files_are_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text('{"a": 1}')
    with pytest.raises(CheckpointError, match="lacks"):
        page_of(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_what_is_there_is_not_replaced_unasked(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    page = write_page(tmp_path, tmp_path / "report.html")
    before = page.read_bytes()
    with pytest.raises(OutputError, match=r"exists.*--overwrite"):
        write_page(tmp_path, page)
    write_page(tmp_path, page, title="Another", overwrite=True)
    assert page.read_bytes() != before
    page.write_text("<html>somebody else's</html>")
    with pytest.raises(OutputError, match="nothing in it says"):
        write_page(tmp_path, page, overwrite=True)
