"""Handing freed memory back to the system, where the C library would keep it (glibc)."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

MMAP_THRESHOLD = -3
"""``M_MMAP_THRESHOLD`` of ``mallopt(3)``."""
SMALL = 2**20
"""Bytes below which a tensor may stay with the C library while memory is short."""
LARGE = 2**25
"""The threshold that glibc reaches by itself once large tensors were freed (``DEFAULT_MMAP_THRESHOLD_MAX``)."""
_inside: list[int] = []
"""One entry for every :func:`released_at_once` that is under way."""


def resident_memory(field: Literal["VmRSS", "VmHWM"] = "VmRSS") -> int | None:
    """Bytes of this process in memory: now, or with ``VmHWM`` most since :func:`reset_peak`; ``None`` where the system
    does not tell (Linux does)."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def reset_peak() -> bool:
    """Forget the highest resident memory so far; whether the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


@functools.cache
def _glibc(name: str) -> Callable[..., Any] | None:
    try:
        return getattr(ctypes.CDLL(None), name)  # type: ignore[no-any-return]
    except (AttributeError, OSError, TypeError):  # not glibc
        return None


def release() -> None:
    """Give memory that was freed back to the system.

    A block's statistics are freed as often as they are made, in sizes that differ from group to group: what glibc keeps
    of them for later would add to the peak of a fit.
    """
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


@contextmanager
def released_at_once(wanted: bool = True) -> Iterator[None]:
    """Inside, tensors above 1 MiB go back to the system as soon as they are freed, if ``wanted``.

    glibc keeps what it thinks will be needed again, and a run is a sequence of tensors of ever other sizes: the gaps
    between them add to the peak of a fit. Asking the system for every tensor costs time instead. Of several that are
    nested the outermost counts.
    """
    tune = _glibc("mallopt") if wanted else None
    if tune is None:
        yield
        return
    _inside.append(tune(MMAP_THRESHOLD, SMALL))
    try:
        yield
    finally:
        _inside.pop()
        if not _inside:
            tune(MMAP_THRESHOLD, LARGE)
