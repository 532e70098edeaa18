"""The page of a compressed checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from optimum_grail.errors import CheckpointError
from optimum_grail.pages.run import run_page
from optimum_grail.report.report import Calibration, Report, SourceRows
from tests.unit.pages.conftest import Parsed


def parsed(report: Report, **settings: Any) -> Parsed:
    return Parsed(run_page(report, **settings).html())


def result(dataset: str, **more: Any) -> dict[str, Any]:
    return {"metric": "perplexity", "dataset": dataset, "dense": 40.0, "compressed": 50.0, **more}


def test_headline_numbers(report: Report) -> None:
    told = dataclasses.replace(report, evaluation=(result("test.txt", corpus="out of corpus"),))
    cards = {card.what: card for card in run_page(told).cards}
    assert cards["parameters"].value == "-40.0 %" and cards["parameters"].detail == "1,000 → 600"
    assert cards["perplexity"].value == "50" and "40 dense, +25.0 %" in cards["perplexity"].detail
    assert "test.txt (out of corpus)" in cards["perplexity"].detail


def test_a_smaller_cache_is_a_headline(report: Report) -> None:
    assert "keys and values per token" not in {card.what for card in run_page(report).cards}
    told = run_page(dataclasses.replace(report, head_size=(64, 48), cache_bytes=(23_040, 17_280)))
    cards = {card.what: card for card in told.cards}
    assert cards["keys and values per token"].value == "-25.0 %"
    assert "inside heads: 64 -> 48 dimensions" in Parsed(told.html()).text


def test_sections_follow_what_was_measured(report: Report) -> None:
    page = parsed(report)
    assert "What stayed of every layer" in page.text and "Error per layer" in page.text
    assert "What they write" not in page.text and "not evaluated" not in page.text
    bare = parsed(dataclasses.replace(report, evaluation=(), groups=(), calibration=None))
    assert "not evaluated" in bare.text
    assert "Error per layer" not in bare.text and "What stayed" not in bare.text


def test_results_are_grouped_by_corpus(report: Report) -> None:
    rows = (result("b.txt", corpus="out of corpus"), result("a.txt", corpus="in corpus"), result("c.txt", plain=90.0))
    text = parsed(dataclasses.replace(report, evaluation=rows)).text
    places = [text.index(words) for words in ("In corpus", "on a.txt", "Out of corpus", "on b.txt", "on c.txt")]
    assert places == sorted(places)
    assert "plainly pruned" in text and "90" in text


def test_agreement_stands_beside_its_result(report: Report) -> None:
    row = result("a.txt", agreement={"kl": 0.25, "same_token": 0.7, "positions": 10})
    text = parsed(dataclasses.replace(report, evaluation=(row,))).text
    assert "KL from dense (nats per token): 0.25" in text and "top-1 agreement with dense: 70.0 %" in text


def test_widths_and_errors_are_drawn(report: Report) -> None:
    page = parsed(report)
    drawn = [bar["class"] for bar in page.named("rect")]
    assert (drawn.count("before"), drawn.count("after")) == (3, 3)
    assert drawn.count("held") == 2 and drawn.count("fitted") >= 2
    titles = [words for words in page.words if words.startswith("layers.0.mlp")]
    assert "layers.0.mlp: after 24" in titles and "layers.0.mlp: fitted 0.1" in titles


def test_infinite_figures_have_words_and_no_bar(report: Report) -> None:
    page = parsed(report)
    assert "inf" in page.text.split()
    assert all(bar.get("width") not in ("inf", "nan") for bar in page.named("rect"))


def test_samples_stand_side_by_side(report: Report) -> None:
    sample = {"prompt": "Once", "dense": " upon a time", "compressed": " upon upon"}
    text = parsed(dataclasses.replace(report, extra={"samples": [sample]})).text
    assert "Once dense upon a time compressed upon upon" in text


def test_samples_of_another_shape_are_refused(report: Report) -> None:
    with pytest.raises(CheckpointError, match=r"samples.*lacks 'dense'"):
        run_page(dataclasses.replace(report, extra={"samples": [{"prompt": "Once"}]}))


def test_sources_files_and_licence(report: Report) -> None:
    sources = (SourceRows("general", 2.0, 80, 4000), SourceRows("self", 1.0, 48, 2000))
    data = Calibration("general:2 self:1", samples=128, sources=sources)
    page = parsed(dataclasses.replace(report, calibration=data), licence="mit", files=[("config.json", 1234)])
    assert "general 2 80 4,000" in page.text and "licence: mit" in page.text and "config.json 1,234" in page.text


def test_folders_of_the_author_are_left_out(report: Report) -> None:
    told = dataclasses.replace(report, model="/home/someone/secret/a-model", evaluation=(result("/home/me/test.txt"),))
    html = run_page(told).html()
    assert "/home" not in html and "a-model" in html and "test.txt" in html


def test_what_was_recovered_and_derived(report: Report) -> None:
    measured = {"metric": "perplexity", "dataset": "t", "dense": 40.0, "before": 50.0, "after": 45.0}
    recovery = {"steps": 10, "rank": 8, "batch_size": 4, "dataset": "self", "kl_before": 0.5, "kl_after": 0.25}
    derived = ({"name": "int8", "metric": "perplexity", "dataset": "t", "value": 51.0, "bytes": 600},)
    told = dataclasses.replace(report, recovery={**recovery, "evaluation": measured}, derived=derived)
    text = parsed(told).text
    assert "perplexity on t 40 50 45" in text and "0 0.5 0.25" in text and "int8 perplexity on t 51 600" in text
