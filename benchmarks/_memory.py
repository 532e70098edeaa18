"""Peak memory of this process, where the system tells (Linux)."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from optimum_grail.streams.memory import release, reset_peak, resident_memory


def peak_above(work: Callable[[], Any]) -> int | None:
    """Bytes that ``work`` needs at its peak beyond what was resident before; ``None`` where it cannot be told."""
    gc.collect()
    release()  # what earlier work freed would otherwise hide a part of the need
    before = resident_memory("VmRSS")
    if not reset_peak():
        return None
    work()
    peak = resident_memory("VmHWM")
    return None if before is None or peak is None else peak - before
