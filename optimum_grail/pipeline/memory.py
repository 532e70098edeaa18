"""Handing freed memory back to the system."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any


@functools.cache
def _trimmer() -> Callable[[int], Any] | None:
    try:
        return ctypes.CDLL(None).malloc_trim  # type: ignore[no-any-return]
    except (AttributeError, OSError, TypeError):  # not glibc
        return None


def release() -> None:
    """Give memory that was freed back to the system, where the C library would keep it (glibc).

    A block's statistics are freed as often as they are made, in sizes that differ from group to group: what glibc keeps
    of them for later would add to the peak of a fit.
    """
    trim = _trimmer()
    if trim is not None:
        trim(0)
