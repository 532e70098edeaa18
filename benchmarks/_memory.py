"""Peak memory of this process, where the system tells (Linux)."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimum_grail.streams.memory import release


def resident(field: str) -> int | None:
    """``VmRSS`` or ``VmHWM`` of this process, in bytes; ``None`` where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def peak_above(work: Callable[[], Any]) -> int | None:
    """Bytes that ``work`` needs at its peak beyond what was resident before; ``None`` where it cannot be told."""
    gc.collect()
    release()  # what earlier work freed would otherwise hide a part of the need
    before = resident("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    except OSError:
        return None
    work()
    peak = resident("VmHWM")
    return None if before is None or peak is None else peak - before
