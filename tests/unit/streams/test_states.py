"""Streams in files behave like lists of tensors, and leave nothing behind."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from optimum_grail.checkpoints.work_folders import WorkFolder
from optimum_grail.errors import OutputError
from optimum_grail.streams.states import OffloadedStates, is_same


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_read_is_what_was_written(dtype: torch.dtype, place: Path) -> None:
    tensors = [torch.randn(2, 3, 5).to(dtype), torch.randn(7).to(dtype)[::2], torch.zeros(0, 4, dtype=dtype)]
    states = OffloadedStates(tensors)
    assert len(states) == 3 and all(torch.equal(one, other) for one, other in zip(states, tensors, strict=True))
    assert [state.dtype for state in states] == [dtype] * 3
    states[0].zero_()
    assert torch.equal(states[0], tensors[0]), "what was read is a copy"


def test_copies_share_files_until_one_is_set(place: Path) -> None:
    states = OffloadedStates([torch.ones(3), torch.ones(3)])
    copy = states.copy()
    assert is_same(states, copy, 0) and is_same(states, copy, 1)
    copy[0] = torch.zeros(3)
    assert not is_same(states, copy, 0) and is_same(states, copy, 1)
    assert states[0].sum() == 3 and copy[0].sum() == 0
    del copy[0]
    assert len(copy) == 1 and len(states) == 2


def test_nothing_is_left_behind(place: Path) -> None:
    states = OffloadedStates(torch.ones(3) for _ in range(4))
    copy = states.copy()
    assert len([*place.rglob("*.bin")]) == 4
    states[0] = copy[0] = torch.zeros(3)
    del states
    gc.collect()
    assert len([*place.rglob("*.bin")]) == 4, "the copy still refers to them"
    del copy
    gc.collect()
    assert not [*place.iterdir()]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path, "states-")
    states = OffloadedStates([torch.ones(3)], folder)
    folder.remove()
    with pytest.raises(OutputError, match="TMPDIR"):
        states.append(torch.ones(3))
    assert len(states) == 1


def test_no_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(OutputError, match="TMPDIR"):
        OffloadedStates()


KILLED = """
import os, sys, tempfile
import torch
from optimum_grail.streams.states import OffloadedStates

tempfile.tempdir = sys.argv[1]
states = OffloadedStates([torch.ones(3)])
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_is_removed(place: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(place)], check=False)
    assert len([*place.rglob("*.bin")]) == 1
    states = OffloadedStates([torch.ones(3)])
    assert len([*place.iterdir()]) == 1 and states[0].sum() == 3
    other = OffloadedStates([torch.zeros(3)])
    assert len([*place.iterdir()]) == 2 and states[0].sum() == 3 and other[0].sum() == 0


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(b"1234")])
def test_files_that_somebody_else_touched(harm: Callable[[Path], object], place: Path) -> None:
    states = OffloadedStates([torch.ones(3)])
    harm(next(place.rglob("*.bin")))
    with pytest.raises(OutputError, match="removed or cut off"):
        states[0]


def test_lists_are_the_same_where_the_tensor_is() -> None:
    state = torch.ones(2)
    assert is_same([state], [state], 0) and not is_same([state], [state.clone()], 0)
