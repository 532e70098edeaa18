"""Freed tensors go back to the system at once, inside and only inside the context."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch

from optimum_grail.pipeline.memory import release, released_at_once

MIB = 2**20
STATUS = Path("/proc/self/statm")


def resident() -> int:
    """Pages of this process in memory."""
    return int(STATUS.read_text(encoding="ascii").split()[1])


def kept_of_every_other(count: int) -> int:
    """Pages still resident after every other one of ``count`` tensors of 4 MiB was freed, beyond those in use."""
    before = resident()
    tensors = [torch.ones(MIB) for _ in range(count)]
    full = resident() - before
    del tensors[::2]
    return resident() - before - full // 2


@pytest.mark.skipif(not STATUS.exists() or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs Linux with glibc")
def test_gaps_between_tensors_do_not_stay() -> None:
    large = torch.ones(24 * MIB // 4)  # once such a tensor is freed, glibc keeps smaller ones by itself
    del large
    page = 4096
    with released_at_once():
        assert kept_of_every_other(8) * page < 2 * MIB
    release()
    assert kept_of_every_other(8) * page > 8 * MIB


def test_without_wish_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimum_grail.pipeline.memory._glibc", lambda name: pytest.fail(name))
    with released_at_once(False):
        pass
