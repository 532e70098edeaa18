"""Reading N:M; light, because every ``optimum-cli`` call reads the table of fields."""

from __future__ import annotations

import re

from optimum_grail.errors import ConfigError, shorten

MOST = 32
"""Largest M."""
_SPELLING = re.compile(r"(\d{1,2}):(\d{1,2})")


def read_ratio(text: object) -> tuple[int, int]:
    """N and M of ``"N:M"``.

    Raises:
        ConfigError: it is something else.
    """
    found = _SPELLING.fullmatch(text) if isinstance(text, str) else None
    keep, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= keep < of <= MOST:
        raise ConfigError(
            f"pattern is {shorten(text)}; expected N:M with 1 <= N < M <= {MOST}: of M neighbouring weights of a "
            "row N stay. 2:4 is what NVIDIA's sparse tensor cores take."
        )
    return keep, of
