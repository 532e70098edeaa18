"""What a run ran on: library versions, hardware, peak memory."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DISTRIBUTIONS = ("torch", "transformers", "optimum", "optimum-grail")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape a result; a library that is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: str = "cpu") -> dict[str, str | int]:
    """Processor, usable cores, bytes of memory and the device of the computation; what the system hides is left out.

    Args:
        device: name of the torch device that did the work.
    """
    found: dict[str, str | int] = {"processor": _processor(), "cores": _cores(), "device": device}
    with suppress(AttributeError, ValueError, OSError):
        found["memory"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return found


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """Name of the processor; Linux tells it in ``/proc/cpuinfo`` only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def available_memory(device: str = "cpu") -> int | None:
    """Bytes that a new allocation can have on ``device`` without anything being moved out; ``None`` where the system
    does not tell. What a system keeps of files for later counts as free, and the limit of a container counts.

    Args:
        device: name of the torch device.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    found = [number for number in (_free_in_system(), _free_in_container()) if number is not None]
    return min(found, default=None)


def _free_in_system() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _free_in_container(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What is left of a control group's limit (version 2), files that can be dropped aside."""
    try:
        limit = int((root / "memory.max").read_text(encoding="ascii"))
        used = int((root / "memory.current").read_text(encoding="ascii"))
        lines = (root / "memory.stat").read_text(encoding="ascii").splitlines()
        droppable = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, ValueError, StopIteration):  # no limit is the word max
        return None
    return max(limit - used + droppable, 0)


def peak_memory() -> int | None:
    """Highest resident memory of this process so far, in bytes; ``None`` where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
