"""What a report says of heads and of their keys and values."""

from __future__ import annotations

import dataclasses

import pytest

from optimum_grail.report.heads import head_lines
from optimum_grail.report.report import Report

INSIDE, CACHE = "inside heads: 64 -> 48 dimensions", "keys and values of a token: 23,040 -> 17,280 bytes"


@pytest.mark.parametrize(
    ("head_size", "cache", "lines"),
    [
        ((), (), []),
        ((), (64, 64), []),
        ((), (23_040, 17_280), [CACHE]),
        ((64, 48), (), [INSIDE]),
        ((64, 48), (23_040, 17_280), [INSIDE, CACHE]),
        ((64, 48), (23_040, 23_040), [INSIDE]),
        ((8, 6, 4), (), ["inside heads: 8 -> 6 -> 4 dimensions"]),
        ((), (64, 0), ["keys and values of a token: 64 -> 0 bytes"]),
    ],
)
def test_only_what_changed(
    report: Report, head_size: tuple[int, ...], cache: tuple[int, ...], lines: list[str]
) -> None:
    assert head_lines(dataclasses.replace(report, head_size=head_size, cache_bytes=cache)) == lines
