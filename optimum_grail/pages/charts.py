"""Charts as values: where every mark stands. The templates draw them as SVG, so no text is put into markup here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

WIDTH, HEIGHT = 720.0, 180.0
"""Of the part of a chart that holds the marks, in units of the SVG; the page scales it."""
COLOURS = 8
"""Colours of lines; further lines repeat them, dashed."""


@dataclass(frozen=True)
class Bar:
    """One rectangle: its corner, size, what it shows (a class of the style sheet) and its tooltip."""

    x: float
    y: float
    width: float
    height: float
    shows: str
    title: str


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: how far along it, in units of the SVG, and what stands there."""

    at: float
    text: str


@dataclass(frozen=True)
class Column:
    """What stands at one place of a bar chart.

    Args:
        text: below it; empty: nothing.
        title: the tooltip's first words.
        values: one per series; ``None`` or not finite: no bar.
    """

    text: str
    title: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class BarChart:
    """Bars side by side, or each series in front of the one before.

    Args:
        title: heading.
        series: classes and names of the series, for the legend.
        bars: the rectangles.
        across: ticks of the horizontal axis.
        up: ticks of the vertical axis.
    """

    title: str
    series: tuple[tuple[str, str], ...]
    bars: tuple[Bar, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


@dataclass(frozen=True)
class Point:
    """One measurement in a line chart, in units of the SVG, with its tooltip."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Line:
    """One series of a line chart.

    Args:
        name: for the legend.
        colour: number of its colour.
        dashed: whether another line has the colour already.
        points: from left to right.
    """

    name: str
    colour: int
    dashed: bool
    points: tuple[Point, ...]


@dataclass(frozen=True)
class LineChart:
    """Lines over a common axis, and one point by itself that they are compared with.

    Args:
        title: heading.
        lines: the series.
        reference: that point, if it is within reach.
        across: ticks of the horizontal axis.
        up: ticks of the vertical axis.
        xlabel: what the horizontal axis is.
        ylabel: what the vertical axis is.
    """

    title: str
    lines: tuple[Line, ...]
    reference: Point | None
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    xlabel: str
    ylabel: str


def bar_chart(
    title: str, series: Sequence[tuple[str, str]], columns: Sequence[Column], *, overlaid: bool = False
) -> BarChart:
    """Place the bars of ``columns``.

    Args:
        title: heading.
        series: class and name of every series.
        columns: at least one.
        overlaid: whether the series stand in front of each other, instead of side by side.
    """
    highest = max((value for column in columns for value in column.values if _drawn(value)), default=0.0) or 1.0
    ticks = nice_ticks(0.0, highest)
    top, step = max(ticks[-1], highest), WIDTH / len(columns)
    wide = step * 0.78 / (1 if overlaid else len(series))
    bars = []
    for place, column in enumerate(columns):
        for number, ((shows, name), value) in enumerate(zip(series, column.values, strict=True)):
            if _drawn(value):
                x = (place + 0.11) * step + (0 if overlaid else number * wide)
                height = HEIGHT * value / top
                said = f"{column.title}: {name} {value:,.6g}"
                bars.append(Bar(_r(x), _r(HEIGHT - height), _r(wide), _r(height), shows, said))
    every = math.ceil(len(columns) / 16)
    across = [Tick(_r((place + 0.5) * step), column.text) for place, column in enumerate(columns) if place % every == 0]
    up = [Tick(_r(HEIGHT - HEIGHT * tick / top), f"{tick:,.6g}") for tick in ticks]
    return BarChart(title, tuple(series), tuple(bars), tuple(across), tuple(up))


def line_chart(
    title: str,
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    reference: tuple[float, float],
    labels: tuple[str, str],
    *,
    logarithmic: bool = False,
) -> LineChart | None:
    """Place lines of ``(x, y)``; points that are not finite, or not above 0 on a logarithmic axis, are left out.

    Args:
        title: heading.
        lines: name and points of every series.
        reference: what they are compared with.
        labels: what the horizontal and the vertical axis are.
        logarithmic: whether the vertical axis is.

    Returns:
        the chart; ``None`` where no point of a line can be drawn.
    """

    def sound(point: tuple[float, float]) -> bool:
        """Whether a point has a place."""
        return all(map(math.isfinite, point)) and (point[1] > 0 or not logarithmic)

    kept = [(name, sorted(filter(sound, points))) for name, points in lines]
    known = [point for _, points in kept for point in points]
    if not known:
        return None
    known += [reference] if sound(reference) else []
    horizontal = _Axis.around([x for x, _ in known])
    vertical = _Axis.around([y for _, y in known], logarithmic)

    def placed(name: str, point: tuple[float, float]) -> Point:
        """A point with its tooltip; up is less in an SVG."""
        x, y = WIDTH * horizontal.share(point[0]), HEIGHT - HEIGHT * vertical.share(point[1])
        return Point(_r(x), _r(y), f"{name}: {point[1]:,.5g} at {point[0]:,.5g}")

    drawn = [
        Line(name, number % COLOURS, number >= COLOURS, tuple(placed(name, point) for point in points))
        for number, (name, points) in enumerate(kept)
    ]
    across = [Tick(_r(WIDTH * horizontal.share(tick)), f"{tick:,.6g}") for tick in horizontal.ticks]
    up = [Tick(_r(HEIGHT - HEIGHT * vertical.share(tick)), f"{tick:,.6g}") for tick in vertical.ticks]
    star = placed("dense", reference) if sound(reference) else None
    return LineChart(title, tuple(drawn), star, tuple(across), tuple(up), *labels)


@dataclass(frozen=True)
class _Axis:
    """From values to shares of an axis's length."""

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool

    @classmethod
    def around(cls, values: Sequence[float], logarithmic: bool = False) -> _Axis:
        """An axis that holds ``values`` and ends at round numbers."""
        ticks = (log_ticks if logarithmic else nice_ticks)(min(values), max(values))
        return cls(min(ticks[0], *values), max(ticks[-1], *values), tuple(ticks), logarithmic)

    def share(self, value: float) -> float:
        """Where ``value`` stands, from 0 to 1."""
        scale = math.log if self.logarithmic else float
        return (scale(value) - scale(self.low)) / ((scale(self.high) - scale(self.low)) or 1.0)


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """About ``most`` round numbers that reach from at most ``low`` to at least ``high``."""
    span = max(high - low, 1e-9 * max(abs(low), abs(high))) or 1.0
    span = max(span, 1e-300)  # below, a power of ten would be 0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next((factor * power for factor in (1, 2, 2.5, 5) if factor * power * most >= span), 10 * power)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Round numbers on a logarithmic axis, the least at most ``low``, the greatest at least ``high``; both above 0."""
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    for factors in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,)):
        found = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        below, above = [tick for tick in found if tick <= low], [tick for tick in found if tick >= high]
        kept = [tick for tick in found if below[-1] <= tick <= (above or found)[0 if above else -1]]
        if len(kept) <= most:
            return kept
    return kept[:: math.ceil(len(kept) / most)]


def _drawn(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value) and value >= 0


def _r(value: float) -> float:
    """Two digits are below what a screen shows."""
    return round(value, 2)


def shares(values: Iterable[float | None]) -> list[float | None]:
    """Values as percent of the greatest, for bars in a table; ``None`` for what has no bar."""
    found = list(values)
    highest = max((value for value in found if _drawn(value)), default=0.0) or 1.0
    return [_r(100 * value / highest) if _drawn(value) else None for value in found]
