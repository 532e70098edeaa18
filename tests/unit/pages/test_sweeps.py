"""The page of a sweep."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from optimum_grail.errors import CheckpointError
from optimum_grail.pages.sweeps import read_sweep, sweep_page
from tests.unit.pages.conftest import Parsed


@pytest.fixture
def written(swept: dict[str, Any], tmp_path: Path) -> Any:
    """Writes the sweep, with changes, and returns the file."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "sweep.json"
        path.write_text(json.dumps(swept | changes))
        return path

    return write


def test_a_line_per_method_and_a_chart_per_set(written: Any) -> None:
    page = Parsed(sweep_page(read_sweep(written())).html())
    assert len(page.named("polyline")) == 4 and len(page.named("circle")) == 8
    assert [words for words in page.words if words == "★ dense"] == ["★ dense"] * 2
    assert "wiki (in corpus)" in page.text and "books" in page.text
    assert "grail-plus 26 30" in page.text and "wanda 52 60" in page.text
    assert "Knee of the curve, beyond which a parameter costs more than before: wanda at 0.3" in page.text
    assert "/home" not in page.text and "a-model" in page.text


def test_the_best_of_every_size(written: Any) -> None:
    cards = sweep_page(read_sweep(written())).cards
    assert [(card.what, card.value) for card in cards] == [
        ("dense", "20"),
        ("best at 0.3", "26"),
        ("best at 0.5", "30"),
    ]
    assert cards[1].detail == "grail-plus, +30.0 % against dense"


def test_higher_is_better(written: Any) -> None:
    page = sweep_page(read_sweep(written(higher_is_better=True)))
    assert page.cards[1].detail.startswith("wanda") and page.values["better"] == "Higher is better."


def test_diverged_runs_have_no_point(swept: dict[str, Any], written: Any) -> None:
    for row in swept["rows"][:2]:
        row["result"] = {"perplexity": math.inf, "sets": {name: {"perplexity": math.inf} for name in ("wiki", "books")}}
    page = Parsed(sweep_page(read_sweep(written())).html())
    assert len(page.named("circle")) == 4 and "inf" in page.text


def test_without_a_metric_there_are_sizes(swept: dict[str, Any], written: Any) -> None:
    for item in (swept["dense"], *swept["rows"]):
        item["result"] = {}
    page = Parsed(sweep_page(read_sweep(written(metric=""))).html())
    assert page.named("polyline") == [] and "700,000" in page.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": []}, "no rows yet"),
        ({"rows": 3}, "expected a list"),
        ({"dense": None}, "expected a dictionary"),
        ({"dense": {"parameters": 1, "bytes": 1, "result": {"sets": [1]}}}, "expected a dictionary"),
        ({"metric": 1}, "expected a text"),
    ],
)
def test_what_is_no_sweep_is_refused(written: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_sweep(written(**changes))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(CheckpointError, match="Cannot read the sweep"):
        read_sweep(tmp_path / "sweep.json")
