"""Where a curve bends."""

from __future__ import annotations

import math
from typing import Any

import pytest

from optimum_grail.report.curve import knee, knees
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
