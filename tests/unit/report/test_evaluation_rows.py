"""Evaluation rows with marks, perturbations and agreement, on the terminal, on cards and in sweeps."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest
from rich.console import Console

from optimum_grail.errors import CheckpointError
from optimum_grail.hub.card import build_card
from optimum_grail.report.report import Report
from optimum_grail.report.sweep_view import plot_sweep, sweep_table
from optimum_grail.report.table import comparison_rows

ROWS: tuple[dict[str, Any], ...] = (
    {
        "metric": "perplexity",
        "dataset": "/data/books/test.txt",
        "corpus": "in corpus",
        "dense": 40.0,
        "compressed": 50.0,
        "agreement": {"kl": 0.25, "same_token": 0.875, "positions": 2048},
    },
    {
        "metric": "perplexity",
        "dataset": "/data/code/test.txt",
        "corpus": "out of corpus",
        "dense": 9.0,
        "compressed": 12.0,
    },
    {
        "metric": "accuracy",
        "dataset": "x",
        "corpus": "not known",
        "perturbation": "jpeg",
        "dense": 0.9,
        "compressed": 0.8,
    },
)


@pytest.fixture
def measured(report: Report) -> Report:
    return Report.from_json(dataclasses.replace(report, evaluation=ROWS).to_json())


def test_rows_come_back_as_they_were(measured: Report) -> None:
    assert measured.evaluation == ROWS


def test_names_say_set_damage_and_corpus(measured: Report) -> None:
    rows = {name: rest for name, *rest in comparison_rows(measured)}
    assert rows["perplexity on /data/books/test.txt (in corpus)"] == ["40", "-", "50", "+25.0 %"]
    assert "accuracy, jpeg on x (corpus not known)" in rows
    assert rows["KL from dense (nats per token) on /data/books/test.txt (in corpus)"] == ["-", "-", "0.25", "-"]
    assert rows["top-1 agreement with dense on /data/books/test.txt (in corpus)"][2] == "87.5 %"
    assert not any("positions" in name for name in rows)


def test_cards_keep_apart_files_of_one_name_and_explain_the_marks(measured: Report) -> None:
    card = build_card(measured)
    assert "| perplexity on books/test.txt (in corpus) | 40 | 50 | +25.0 % |" in card.text
    assert "| perplexity on code/test.txt (out of corpus) |" in card.text and "/data" not in str(card)
    assert "Out of corpus: from another source" in card.text and "at up to 2,048 positions" in card.text
    assert [result.metric_name for result in card.data.eval_results] == ["perplexity", "perplexity", "accuracy, jpeg"]
    assert card.data.metrics == ["perplexity", "accuracy"]


def test_cards_of_older_reports_say_nothing_of_it(report: Report) -> None:
    text = build_card(report).text
    assert "In corpus" not in text and "Agreement" not in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"corpus": "<b>in</b>"},
        {"perturbation": "a|b"},
        {"agreement": [1]},
        {"agreement": {"kl": "much"}},
        {"agreement": {"<img src=x>": 1.0}},
        {"agreement": None},
        {"source": 3},
    ],
)
def test_hostile_rows_are_refused(report: Report, wrong: dict[str, Any]) -> None:
    values = dataclasses.replace(report, evaluation=({**ROWS[0], **wrong},)).to_dict()
    with pytest.raises(CheckpointError, match="no report of a compression"):
        Report.from_dict(values)


def sweep(sets: tuple[str, ...]) -> dict[str, Any]:
    def result(value: float) -> dict[str, Any]:
        more = {"sets": {name: {"perplexity": value + n} for n, name in enumerate(sets)}} if len(sets) > 1 else {}
        return {"perplexity": value, **more}

    corpus = dict(zip(sets, ("in corpus", "out of corpus"), strict=False))
    rows = [
        {"method": "wanda", "size": "0.2", "parameters": 80, "result": result(45.0), "corpus": corpus},
        {"method": "magnitude", "size": "0.2", "parameters": 80, "result": result(50.0), "corpus": dict.fromkeys(sets)},
    ]
    dense = {"parameters": 100, "result": result(40.0)}
    return {"metric": "perplexity", "higher_is_better": False, "dense": dense, "rows": rows}


def shown(result: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(sweep_table(result))
    return console.file.getvalue()


def test_a_sweep_has_a_line_per_method_and_set() -> None:
    lines = [" ".join(line.split()) for line in shown(sweep(("books", "code"))).splitlines()]
    assert lines[:2] == ["perplexity", "dense 0.2"]
    assert lines[2:] == [
        "wanda on books (in corpus) 40 45",
        "wanda on code (out of corpus) 41 46",
        "magnitude on books 40 50",
        "magnitude on code 41 51",
    ]


def test_a_sweep_on_one_set_says_which_in_its_title() -> None:
    assert "perplexity on books (in corpus); dense 40" in shown(sweep(("books",)))
    older = sweep(("books",))
    for row in older["rows"]:
        del row["corpus"]
    assert shown(older).startswith("perplexity; dense 40")


@pytest.mark.parametrize("sets", [("books",), ("books", "code")])
def test_a_sweep_of_several_sets_has_a_panel_for_each(sets: tuple[str, ...]) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    width, height = Image.open(io.BytesIO(plot_sweep(sweep(sets)))).size
    assert height == pytest.approx(width * 4.5 / 7 * len(sets), rel=0.01)
