"""Freed tensors go back to the system at once, inside and only inside the context; and how much is resident."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from optimum_grail.streams.memory import released_at_once, reset_peak, resident_memory

KEPT = """
import torch
from pathlib import Path
from optimum_grail.streams.memory import release, released_at_once

def resident():
    return 4096 * int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])

def kept():
    before = resident()
    tensors = [torch.ones(2**20) for _ in range(8)]
    full = resident() - before
    del tensors[::2]
    return resident() - before - full // 2

large = torch.ones(6 * 2**20)  # once such a tensor is freed, glibc keeps smaller ones by itself
del large
with released_at_once():
    inside = kept()
release()
print(inside, kept())
"""


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists() or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs Linux with glibc"
)
def test_gaps_between_tensors_do_not_stay() -> None:
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    inside, outside = map(int, done.stdout.split())
    assert inside < 2**21 < 2**23 < outside, "half of eight tensors of 4 MiB"


def test_without_wish_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimum_grail.streams.memory._glibc", lambda name: pytest.fail(name))
    with released_at_once(False):
        pass


@pytest.mark.skipif(resident_memory() is None, reason="the system does not tell")
def test_the_peak_is_that_since_it_was_forgotten():
    torch.ones(2**25).sum()
    assert resident_memory("VmHWM") > resident_memory() + 100 * 2**20
    assert reset_peak()
    assert resident_memory("VmHWM") < resident_memory() + 20 * 2**20
