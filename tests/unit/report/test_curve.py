"""Where a curve bends."""

from __future__ import annotations

import math
from typing import Any

import pytest

from optimum_grail.report.curve import damage, knee, knees
from optimum_grail.report.sweep_view import sweep_table

SIZES = [0.1, 0.2, 0.3, 0.4, 0.5]


@pytest.mark.parametrize(
    ("lost", "place"),
    [
        ([0.01, 0.02, 0.03, 0.5, 1.0], 2),
        ([0.001, 0.01, 0.1, 0.3, 1.0], 2),
        ([0.0, 0.0, 0.0, 0.0, 1.0], 3),
        ([0.1, 0.2, 0.3, 0.4, 0.5], None),
        ([0.5, 0.8, 0.9, 0.95, 1.0], None),
        ([0.01, math.inf, 0.03, 0.5, 1.0], None),
        ([-0.1, -0.1, -0.1, -0.1, -0.1], None),
    ],
)
def test_the_last_size_before_quality_falls(lost: list[float], place: int | None) -> None:
    assert knee(SIZES, lost) == place
    assert knee([10 * size for size in SIZES], [7 * value for value in lost]) == place, "whatever the units"


def test_two_sizes_are_no_curve() -> None:
    assert knee([0.1, 0.5], [0.0, 1.0]) is None


def result(metric: str, **lost: list[float]) -> dict[str, Any]:
    """A sweep whose methods lost so much, in the order of the sizes turned round."""
    rows = [
        {"method": method, "size": f"{size:g}", "parameters": round(1000 * (1 - size)), "result": {metric: value}}
        for method, values in lost.items()
        for size, value in reversed([*zip(SIZES, values, strict=True)])
    ]
    dense = {"parameters": 1000, "result": {metric: 1.0}}
    return {"metric": metric, "higher_is_better": False, "dense": dense, "rows": rows}


def test_every_method_has_its_own() -> None:
    found = result("perplexity", early=[1.0, 1.1, 2.0, 3.0, 4.0], late=[1.0, 1.0, 1.0, 1.1, 4.0], never=[2.0] * 5)
    found["knees"] = knees(found)
    assert found["knees"] == {"early": "0.2", "late": "0.4"}
    assert "early 0.2, late 0.4" in str(sweep_table(found).caption)


def test_without_a_metric_there_is_none() -> None:
    found = result("", early=[0.0, 0.1, 1.0, 2.0, 3.0])
    assert knees(found) == {} and sweep_table({**found, "knees": {}}).caption is None


@pytest.mark.parametrize(
    ("higher", "dense", "value", "lost"),
    [
        (False, 20.0, 40.0, math.log(2)),
        (False, 20.0, 10.0, -math.log(2)),
        (True, 0.8, 0.6, 0.25),
        (True, 0.5, 0.0, 1.0),
        (True, 0.0, 0.5, math.nan),
        (False, 0.0, 1.0, math.nan),
        (False, 20.0, 0.0, math.nan),
        (False, 20.0, math.inf, math.inf),
        (False, 20.0, None, math.nan),
    ],
)
def test_what_a_row_lost(higher: bool, dense: float, value: float | None, lost: float) -> None:
    swept = {"metric": "m", "higher_is_better": higher, "dense": {"result": {"m": dense}}}
    row = {"result": {} if value is None else {"m": value}}
    assert damage(swept, row) == pytest.approx(lost, nan_ok=True)


def test_a_curve_needs_something_gone_and_something_lost() -> None:
    assert knee([0.0, 0.0, 0.0], [0.1, 0.2, 0.3]) is None
    assert knee([0.1, 0.2, 0.5], [0.0, 0.0, 0.0]) is None
    assert knee([0.1, 0.2, math.nan], [0.0, 0.0, 1.0]) is None
    with pytest.raises(ValueError, match="zip"):
        knee([0.1, 0.2, 0.5], [0.0, 0.0, 0.5, 1.0])


def test_higher_figures_bend_too() -> None:
    found = result("accuracy", only=[0.99, 0.98, 0.97, 0.6, 0.1]) | {"higher_is_better": True}
    assert knees(found) == {"only": "0.3"}
    assert knees(found | {"dense": {"parameters": 1000, "result": {"accuracy": 0.0}}}) == {}
