"""Pages of reports that an older version wrote, of unusual figures, and of strangers' words in places of their own."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from optimum_grail.errors import CheckpointError, OutputError
from optimum_grail.pages.folder import check_page, page_of, write_page
from optimum_grail.pages.run import run_page
from optimum_grail.pages.sweeps import LARGEST, read_sweep, sweep_page
from optimum_grail.pages.vocabulary import vocabulary_page
from optimum_grail.report.report import REPORT_FILE, GroupRow, Report
from optimum_grail.report.table import MISSING
from tests.unit.pages.conftest import Parsed
from tests.unit.pages.test_folder import MARKUP, VOCABULARY, is_harmless

OLDEST = {
    "model": "a-model",
    "parameters_before": 1000,
    "parameters_after": 600,
    "block_parameters_before": 800,
    "block_parameters_after": 400,
    "bytes_before": 2000,
    "bytes_after": 1200,
}


def cards_of(report: Report) -> dict[str, tuple[str, str]]:
    """Value and detail of the headline numbers, by what they are."""
    return {card.what: (card.value, card.detail) for card in run_page(report).cards}


def latency(dense: float, compressed: float, *spreads: float) -> dict[str, Any]:
    row = {"batch": 4, "dense": dense, "compressed": compressed}
    return {"latency": [row | dict(zip(("dense_spread", "compressed_spread"), spreads, strict=False))]}


def test_a_report_with_nothing_but_sizes_has_a_page(tmp_path: Path) -> None:
    (tmp_path / REPORT_FILE).write_text(json.dumps(OLDEST))
    page = page_of(tmp_path)
    text = Parsed(page.html()).text
    assert [card.what for card in page.cards] == ["parameters", "size of the weights"]
    assert "a-model, compressed" in text and "50.0 % of the blocks' parameters removed" in text
    assert "not evaluated" in text and "Notes and warnings" not in text and "Error per layer" not in text


@pytest.mark.parametrize("name", sorted(OLDEST))
def test_a_report_without_a_size_or_a_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / REPORT_FILE).write_text(json.dumps({key: value for key, value in OLDEST.items() if key != name}))
    with pytest.raises(CheckpointError, match=f"lacks '{name}'"):
        page_of(tmp_path)


def test_a_later_versions_fields_are_no_obstacle(report: Report, tmp_path: Path) -> None:
    values = report.to_dict() | {"from_the_future": {"deep": [1, None, MARKUP]}}
    (tmp_path / REPORT_FILE).write_text(json.dumps(values))
    is_harmless(page_of(tmp_path).html())


def test_speed_is_told_only_where_it_is_told_apart(report: Report) -> None:
    def speed(*figures: float) -> tuple[str, str]:
        told = dataclasses.replace(report, forward=latency(*figures))
        return cards_of(told)["speed of a forward pass"]

    assert speed(0.5, 0.25, 0.01, 0.01) == ("2.00 ×", "500 ms → 250 ms, batch of 4")
    assert speed(0.5, 0.49, 0.1, 0.1) == ("as fast", "500 ms → 490 ms, batch of 4; not told apart")
    assert speed(0.25, 0.5) == ("0.50 ×", "250 ms → 500 ms, batch of 4")
    assert speed(0.5, 0.0)[0] == "as fast", "no division by a time of zero"
    assert "speed of a forward pass" not in cards_of(report)


def test_the_headline_is_of_undamaged_inputs_with_both_figures(report: Report) -> None:
    rows: tuple[dict[str, Any], ...] = (
        {"metric": "top_1", "dataset": "noisy", "dense": 0.4, "compressed": 0.3, "perturbation": "noise"},
        {"metric": "top_1", "dataset": "one-sided", "dense": None, "compressed": 0.7},
        {"metric": "top_1", "dataset": "clean", "dense": 0.8, "compressed": 0.6, "higher_is_better": True},
    )
    told = dataclasses.replace(report, evaluation=rows)
    assert cards_of(told)["top 1"] == ("0.6", "0.8 dense, -25.0 %; clean")
    assert "top_1, noise on noisy" in Parsed(run_page(told).html()).text
    assert "top 1" not in cards_of(dataclasses.replace(told, evaluation=rows[:2]))


def test_keys_and_values_that_stayed_are_no_headline(report: Report) -> None:
    same = dataclasses.replace(report, head_size=(8, 6), cache_bytes=(64, 64))
    assert "keys and values per token" not in cards_of(same)
    text = Parsed(run_page(same).html()).text
    assert "inside heads: 8 -> 6 dimensions" in text and "keys and values of a token" not in text


def test_a_layer_that_lost_all_and_one_of_the_end(report: Report) -> None:
    groups = (GroupRow("a.mlp", "mlp", 64, 0), GroupRow("head", "classifier", 10, 10, 0.5, 0.25))
    page = Parsed(run_page(dataclasses.replace(report, groups=groups)).html())
    drawn = {bar["class"]: bar["height"] for bar in page.named("rect") if bar["class"] in ("before", "after")}
    assert float(str(drawn["after"])) == 0.0 < float(str(drawn["before"]))
    assert "head: fitted 0.25" in page.words and not any(words.startswith("head: after") for words in page.words)


def test_heads_are_drawn_as_what_the_config_counts(report: Report) -> None:
    groups = (GroupRow("a.heads", "heads", 4, 3, per_unit={"num_key_value_heads": 1, "num_attention_heads": 2}),)
    words = Parsed(run_page(dataclasses.replace(report, groups=groups)).html()).words
    assert "a.heads: before 8" in words and "a.heads: after 6" in words


def test_words_that_name_a_place_on_the_page_are_text(report: Report, tmp_path: Path) -> None:
    """Marks, kinds of layers, names of fields and of machines: keys become headings and titles."""
    told = dataclasses.replace(
        report,
        evaluation=({"metric": "accuracy", "dataset": "t", "dense": 1.0, "compressed": 0.5, "plain": math.nan},),
        recovery={"steps": 1, "rank": 1, "batch_size": 1, "dataset": MARKUP, "kl_before": 0.5, "kl_after": 0.25},
        hardware={"processor": MARKUP, "cores": 2},
        extra={"samples": [{"prompt": MARKUP, "dense": MARKUP, "compressed": MARKUP}] * 2, MARKUP: MARKUP},
    )
    told.save(tmp_path)
    html = page_of(tmp_path, title=MARKUP).html()
    is_harmless(html)
    assert Parsed(html).text.count("<script>alert(1)</script>") >= 8


@pytest.mark.parametrize("samples", [{"prompt": "a"}, "text", [1], [{"prompt": 1, "dense": "", "compressed": ""}]])
def test_samples_of_other_kinds_are_refused(report: Report, samples: object) -> None:
    with pytest.raises(CheckpointError, match="samples"):
        run_page(dataclasses.replace(report, extra={"samples": samples}))


def test_a_set_that_some_runs_lack(swept: dict[str, Any], tmp_path: Path) -> None:
    del swept["rows"][0]["result"]["sets"]["books"], swept["knees"], swept["hardware"]
    for name in ("corpus", "standalone", "notes", "seconds"):
        del swept["rows"][1][name]
    (tmp_path / "sweep.json").write_text(json.dumps(swept))
    page = Parsed(page_of(tmp_path).html())
    assert len(page.named("circle")) == 7 and "Knee of the curve" not in page.text
    assert f"grail-plus {MISSING} 15" in page.text


def test_one_method_and_a_name_that_is_no_path(swept: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(swept | {"rows": swept["rows"][:1], "source": "someone/a-model"}))
    page = sweep_page(read_sweep(path))
    assert page.title == "someone/a-model, compressed to several sizes"
    assert page.subtitle == "1 run of 1 method on one calibration."
    assert sweep_page(read_sweep(path), title="Mine").title == "Mine"


def test_a_size_at_which_nothing_is_known_has_no_best(swept: dict[str, Any], tmp_path: Path) -> None:
    for row in swept["rows"]:
        if row["size"] == "0.5":
            row["result"]["sets"]["wiki"]["perplexity"] = None
    (tmp_path / "sweep.json").write_text(json.dumps(swept))
    assert [card.what for card in page_of(tmp_path).cards] == ["dense", "best at 0.3"]


def test_a_file_too_large_for_a_sweep_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(CheckpointError, match=r"larger than 50,000,000 bytes"):
        read_sweep(path)


@pytest.mark.parametrize("name", ["parameters", "bytes"])
def test_sizes_that_no_model_has_are_refused(swept: dict[str, Any], tmp_path: Path, name: str) -> None:
    swept["rows"][0][name] = 10**400
    (tmp_path / "sweep.json").write_text(json.dumps(swept))
    with pytest.raises(CheckpointError, match=name):
        page_of(tmp_path)


def test_an_empty_text_loses_no_token() -> None:
    empty = {"name": "/data/empty.txt", "before": 0, "after": 0, "same": 0}
    page = vocabulary_page({**VOCABULARY, "data": [empty]}, "small")  # type: ignore[typeddict-item]
    assert page.title == "small, with a smaller vocabulary"
    assert page.values["texts"][0][0] == "empty.txt" and page.values["texts"][0][-1] == "100.00%"


def test_a_damaged_vocabulary_is_told(tmp_path: Path) -> None:
    (tmp_path / "grail_vocabulary.json").write_bytes(b"\xff{")
    with pytest.raises(CheckpointError, match="Trim the vocabulary again"):
        page_of(tmp_path)


def test_what_cannot_be_written_is_told_before(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    with pytest.raises(OutputError, match="is a folder"):
        check_page(tmp_path, tmp_path)
    with pytest.raises(CheckpointError, match="no folder"):
        check_page(tmp_path / "nowhere", tmp_path / "page.html")
    check_page(tmp_path, tmp_path / "deep" / "page.html")
    assert not (tmp_path / "deep").exists(), "a check leaves nothing behind"
    written = write_page(tmp_path, tmp_path / "deep" / "page.html")
    assert [path.name for path in written.parent.iterdir()] == ["page.html"]
