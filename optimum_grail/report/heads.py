"""What a report says of the dimensions inside heads, and of keys and values."""

from __future__ import annotations

from collections.abc import Sequence

from optimum_grail.report.report import Report


def head_lines(report: Report) -> list[str]:
    """Dimensions of a head and bytes of one token's keys and values, before and after; nothing where they stayed."""
    lines = [f"inside heads: {_change(report.head_size)} dimensions"] if report.head_size else []
    cache = [f"keys and values of a token: {_change(report.cache_bytes)} bytes"]
    return lines + (cache if len(set(report.cache_bytes)) > 1 else [])


def _change(sizes: Sequence[int]) -> str:
    return " -> ".join(f"{size:,}" for size in sizes)
