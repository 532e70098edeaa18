"""Where marks stand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimum_grail.pages.charts import HEIGHT, WIDTH, Column, bar_chart, line_chart, log_ticks, nice_ticks, shares

SERIES = (("plain", "plainly pruned"), ("fitted", "fitted"))


def test_bars_are_as_high_as_their_values() -> None:
    chart = bar_chart("t", SERIES, [Column("0", "first", (1.0, 0.5)), Column("1", "second", (0.25, None))])
    assert [bar.height for bar in chart.bars] == [HEIGHT, HEIGHT / 2, HEIGHT / 4]
    assert all(bar.y + bar.height == pytest.approx(HEIGHT) for bar in chart.bars)
    assert chart.bars[0].x + chart.bars[0].width == pytest.approx(chart.bars[1].x, abs=0.02)
    assert chart.bars[1].title == "first: fitted 0.5" and chart.bars[1].shows == "fitted"


def test_overlaid_bars_stand_in_one_place() -> None:
    chart = bar_chart("t", SERIES, [Column("0", "first", (4.0, 3.0))], overlaid=True)
    assert chart.bars[0].x == chart.bars[1].x and chart.bars[0].width == chart.bars[1].width


@pytest.mark.parametrize("value", [None, math.inf, math.nan, -1.0])
def test_what_is_no_height_has_no_bar(value: float | None) -> None:
    chart = bar_chart("t", SERIES, [Column("0", "first", (value, 1.0))])
    assert [bar.shows for bar in chart.bars] == ["fitted"]


def test_many_columns_have_few_labels() -> None:
    chart = bar_chart("t", SERIES[:1], [Column(str(place), "c", (1.0,)) for place in range(200)])
    assert len(chart.across) <= 16 and len(chart.bars) == 200
    assert max(bar.x + bar.width for bar in chart.bars) <= WIDTH


def test_points_of_a_line_chart() -> None:
    chart = line_chart("t", [("one", [(2.0, 20.0), (1.0, 40.0)])], (4.0, 10.0), ("x", "y"), logarithmic=True)
    assert chart is not None and chart.reference is not None
    first, second = chart.lines[0].points
    assert first.x < second.x < chart.reference.x and first.y < second.y < chart.reference.y
    halves = second.y - first.y, chart.reference.y - second.y
    assert halves[0] == pytest.approx(halves[1], abs=0.05), "equal ratios are equally far apart"


def test_lines_without_a_point_are_no_chart() -> None:
    assert line_chart("t", [("one", [(1.0, math.inf), (2.0, 0.0)])], (1.0, 1.0), ("x", "y"), logarithmic=True) is None


def test_a_ninth_line_is_dashed() -> None:
    chart = line_chart("t", [(str(number), [(1.0, 2.0)]) for number in range(9)], (1.0, 1.0), ("x", "y"))
    assert chart is not None
    assert [line.dashed for line in chart.lines] == [False] * 8 + [True] and chart.lines[8].colour == 0


@given(st.floats(-1e12, 1e12), st.floats(0, 1e12))
def test_nice_ticks_reach_around_the_values(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    slack = 1e-6 * max(abs(low), abs(low + span), 1e-12)
    assert ticks[0] <= low + slack and ticks[-1] >= low + span - slack and 2 <= len(ticks) <= 9


@given(st.floats(1e-8, 1e8), st.floats(1, 1e6))
def test_log_ticks_reach_around_the_values(low: float, ratio: float) -> None:
    ticks = log_ticks(low, low * ratio)
    assert ticks[0] <= low * 1.0001 and ticks[-1] * 10.0**2 >= low * ratio and 1 <= len(ticks) <= 9


def test_shares_are_of_the_greatest() -> None:
    assert shares([1.0, None, 4.0, math.inf]) == [25.0, None, 100.0, None]
