"""What a sweep measures, on one set and on several, with a metric that needs no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from optimum_grail.data.batches import Batch, CalibrationData
from optimum_grail.data.rows import Rows
from optimum_grail.evaluation.comparison import Comparison, Comparisons
from optimum_grail.evaluation.for_sweep import SweepMetric
from optimum_grail.evaluation.metrics import Measured, Readers
from optimum_grail.report.progress import Silent


@dataclass(frozen=True)
class Size:
    """Counts parameters and adds what its set says."""

    headline: ClassVar[str] = "size"
    higher_is_better: ClassVar[bool] = True

    def measure(self, model: nn.Module, readers: Readers, rows: Rows, progress: object) -> Measured:
        return Measured({"size": float(sum(item.numel() for item in model.parameters()) + rows.data)})

    def fingerprints(self, readers: Readers, rows: Rows) -> frozenset[str]:
        return frozenset({rows.source})


class Listening(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def message(self, text: str) -> None:
        self.told.append(text)


def metric_of(progress: Silent, **sets: int) -> SweepMetric:
    readers = Readers(nn.Linear, None, None, None)
    metric: Any = Size()
    items = [
        Comparison("size", metric, Rows(value, f"/data/{name}.txt"), readers, name) for name, value in sets.items()
    ]
    return SweepMetric(Comparisons(tuple(items)), progress)


def test_without_data_nothing_is_measured() -> None:
    assert metric_of(Silent()).settings == {}
    assert metric_of(Silent()).rows({}, {}, None) == ()


def test_one_set_is_the_figure_itself() -> None:
    progress = Listening()
    metric = metric_of(progress, books=10)
    settings = metric.settings
    assert (settings["headline"], settings["higher_is_better"]) == ("size", True)
    assert settings["measure"](nn.Linear(2, 2)) == {"size": 16.0}
    assert progress.told == ["Measuring the compressed model: size on books"]
    (row,) = metric.rows({"size": 20.0}, {"size": 16.0}, None)
    assert (row["dense"], row["compressed"], row["dataset"]) == (20.0, 16.0, "books") and "agreement" not in row


def test_every_set_is_a_row_of_its_own_figures() -> None:
    metric = metric_of(Silent(), books=10, code=100)
    dense, small = metric.measure(nn.Linear(3, 3)), metric.measure(nn.Linear(2, 2))
    assert dense == {"size": 22.0, "sets": {"books": {"size": 22.0}, "code": {"size": 112.0}}}
    rows = metric.rows(dense, small, None)
    found = [(row["dataset"], row["dense"], row["compressed"], row["source"]) for row in rows]
    assert found == [("books", 22.0, 16.0, "/data/books.txt"), ("code", 112.0, 106.0, "/data/code.txt")]


def test_sets_are_marked_by_what_was_calibrated_on() -> None:
    metric = metric_of(Silent(), books=1, code=2)
    batch = Batch({"input_ids": torch.ones(1, 4, dtype=torch.int64)}, "fit")
    data = CalibrationData((batch,), "/data/books.txt", "", 1, 4, 4, "text", frozenset())
    found = metric.settings["corpora"](data)
    assert found["books"] == "in corpus" and found["code"] != "in corpus"
    dense = metric.measure(nn.Linear(2, 2))
    assert [row["corpus"] for row in metric.rows(dense, dense, data)] == list(found.values())
    assert metric.corpora(None) == {"books": None, "code": None}
