"""Weights that leave memory before the checkpoint is written."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from optimum_grail.checkpoints.spool import Spool
from optimum_grail.errors import OutputError

VALUE = torch.tensor([1.0009765625, 2.0])  # in bfloat16 it is another one
ROUND = VALUE.bfloat16()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("in_memory", [False, True])
def test_tensors_come_back_in_the_dtype_of_the_checkpoint(in_memory: bool, work: Path) -> None:
    spool = Spool({"block.linear.weight": torch.bfloat16}, torch.float16)
    given = {"weight": VALUE, "bias": VALUE, "count": torch.tensor([3])}
    found = spool.keep("block.linear", given, in_memory)
    assert bool([*work.iterdir()]) != in_memory
    assert torch.equal(found["weight"], ROUND)
    assert torch.equal(found["bias"], VALUE.half())
    assert torch.equal(found["count"], given["count"])


@pytest.mark.parametrize("in_memory", [False, True])
def test_until_they_are_settled_they_may_stay_as_they_came(in_memory: bool, work: Path) -> None:
    spool = Spool({}, torch.bfloat16, exact=True)
    found = spool.keep("linear", {"weight": VALUE}, in_memory)
    assert torch.equal(found["weight"], VALUE) and found["weight"].dtype == torch.float32
    spool.settle_()
    assert torch.equal(found["weight"], ROUND) and found["weight"].dtype == torch.bfloat16


def test_the_folder_goes_with_the_last_reader(work: Path) -> None:
    spool = Spool({}, torch.float32)
    found = spool.keep("linear", {"weight": VALUE}, False)
    del spool
    gc.collect()
    assert torch.equal(found["weight"], VALUE)
    del found
    gc.collect()
    assert not [*work.iterdir()]


def test_a_folder_that_cannot_be_written_is_named(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(work / "nowhere"))
    with pytest.raises(OutputError, match=r"nowhere.*TMPDIR"):
        Spool({}, torch.float32).keep("linear", {"weight": VALUE}, False)
