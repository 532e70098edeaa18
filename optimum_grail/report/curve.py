"""The curve of quality against size of a sweep, and its knee: the last size before quality falls faster than parameters
go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

FEWEST = 3
"""Sizes that make a curve."""
BENT = 0.05
"""How far a curve must leave the straight line from no loss to its last size, both axes from 0 to 1, to have a knee."""


def knee(gone: Sequence[float], lost: Sequence[float]) -> int | None:
    """Which size lies deepest below the straight line from the dense model to the smallest size (Kneedle: Satopää et
    al. 2011, "Finding a 'kneedle' in a haystack", with both axes scaled to 0...1).

    Args:
        gone: share of the parameters that each size does without, ascending.
        lost: what quality each lost, such as ``ln(perplexity / dense)``.

    Returns:
        the position, or ``None``: fewer than three sizes, a loss that is not finite, or a curve that is straight or
        bends the other way.
    """
    if len(gone) < FEWEST or not all(map(math.isfinite, (*gone, *lost))) or gone[-1] <= 0 or lost[-1] <= 0:
        return None
    depth = [size / gone[-1] - loss / lost[-1] for size, loss in zip(gone, lost, strict=True)]
    deepest = max(range(len(depth)), key=lambda index: depth[index])
    return deepest if depth[deepest] > BENT else None


def damage(result: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    """What a row lost: ``ln(perplexity / dense)``, or the lost fraction of a figure that is better when higher; NaN
    where the dense model has nothing to lose."""
    headline = result["metric"]
    dense, value = (float(item["result"].get(headline, math.nan)) for item in (result["dense"], row))
    if result["higher_is_better"]:
        return 1 - value / dense if dense else math.nan
    return math.log(value / dense) if dense > 0 and value > 0 else math.nan


def knees(result: Mapping[str, Any]) -> dict[str, str]:
    """By method: the size at the knee of its curve, where it has one."""
    found: dict[str, str] = {}
    for method in dict.fromkeys(row["method"] for row in result["rows"] if result["metric"]):
        rows = sorted((row for row in result["rows"] if row["method"] == method), key=lambda row: -row["parameters"])
        gone = [1 - row["parameters"] / result["dense"]["parameters"] for row in rows]
        place = knee(gone, [damage(result, row) for row in rows])
        found |= {} if place is None else {method: rows[place]["size"]}
    return found
