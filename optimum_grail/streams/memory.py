"""How much memory is free, and handing freed memory back to the system, where the C library would keep it (glibc)."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

MMAP_THRESHOLD = -3
"""``M_MMAP_THRESHOLD`` of ``mallopt(3)``."""
SMALL = 2**20
"""Bytes below which a tensor may stay with the C library while memory is short."""
LARGE = 2**25
"""The threshold that glibc reaches by itself once large tensors were freed (``DEFAULT_MMAP_THRESHOLD_MAX``)."""


def available_memory(device: torch.device) -> int | None:
    """Free bytes on ``device``; ``None`` where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


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
    between them add to the peak of a fit. Asking the system for every tensor costs time instead.
    """
    tune = _glibc("mallopt") if wanted else None
    if tune is None:
        yield
        return
    tune(MMAP_THRESHOLD, SMALL)
    try:
        yield
    finally:
        tune(MMAP_THRESHOLD, LARGE)
