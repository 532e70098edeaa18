"""Streams go to files where memory is short of them; weights on disk are counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import cpu_offload

from optimum_grail.allocations.uniform import Uniform
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.compensators.grail import Grail
from optimum_grail.compressor import GrailCompressor
from optimum_grail.data.batches import make_batches
from optimum_grail.errors import OutputError
from optimum_grail.fit.methods import Methods
from optimum_grail.models.precision import Precision
from optimum_grail.models.resolve import resolve
from optimum_grail.pipeline import placement
from optimum_grail.pipeline.estimate import Estimate, estimate
from optimum_grail.pipeline.placement import check_disk, choose_dtype_, streams_go_to_files
from optimum_grail.processes.ranks import ALONE
from optimum_grail.selectors.wanda import Wanda
from optimum_grail.streams.states import OffloadedStates

MODEL = torch.nn.Linear(1, 1)
COST = Estimate(1.0, 1000, 1.0, 1.0, streams=900, movable=800)
IDS = [{"input_ids": torch.randint(3, 60, (12,), generator=torch.Generator().manual_seed(i))} for i in range(4)]


def free(monkeypatch: pytest.MonkeyPatch, memory: int | None, disk: int) -> None:
    monkeypatch.setattr(placement, "available_memory", lambda device: memory)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=disk))


@pytest.mark.parametrize(
    ("asked", "memory", "disk", "files"),
    [
        (None, 1251, 10**6, False),
        (None, 1250, 10**6, True),
        (None, 1250, 1125, False),
        (None, None, 10**6, False),
        (True, 10**9, 10**6, True),
        (False, 1, 10**6, False),
    ],
)
def test_streams_go_to_files_where_memory_is_short_and_disk_is_not(
    asked: bool | None, memory: int | None, disk: int, files: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, memory, disk)
    assert streams_go_to_files(COST, asked, MODEL) == files


def test_what_is_moved_is_moved() -> None:
    moved = COST.in_files()
    assert (moved.memory, moved.disk) == (200, 900)
    assert "900" not in COST.line(1, 0) and "of disk" in moved.line(1, 0)


def test_a_disk_without_room_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, None, 100)
    check_disk(COST)
    with pytest.raises(OutputError, match=r"TMPDIR.*--low-memory"):
        check_disk(COST.in_files())


def test_with_streams_in_files_the_precision_may_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 500, 10**6)
    model = torch.nn.Linear(2, 2)
    native = replace(Precision.of(model), main=torch.bfloat16)
    assert choose_dtype_(model, COST.in_files(), native, ALONE) is None
    assert "computed in torch.bfloat16" in str(choose_dtype_(model, COST, native, ALONE))


def test_a_run_decides_by_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written: list[bool] = []
    write = OffloadedStates._write
    monkeypatch.setattr(OffloadedStates, "_write", lambda self, state: written.append(True) or write(self, state))
    for memory, files in ((10**12, False), (1, True)):
        monkeypatch.setattr(placement, "available_memory", lambda device, memory=memory: memory)
        GrailCompressor(tiny_llama(), {"preset": "grail", "batch_size": 2}).compress(IDS)
        assert bool(written) == files


def test_weights_on_disk_are_counted() -> None:
    methods = Methods(Wanda(), Grail(), Uniform())
    model, batches = tiny_llama().eval(), make_batches(IDS, batch_size=2)
    layout = resolve(model)
    whole = estimate(model, layout, methods, batches)
    cpu_offload(model, execution_device=torch.device("cpu"))
    parts = estimate(model, layout, methods, batches)
    block = 4 * layout.block_parameters // 3
    largest = 4 * max(model.lm_head.weight.numel(), model.model.embed_tokens.weight.numel())
    assert parts.memory - whole.memory == block + largest
    assert (whole.disk, parts.disk) == (0, layout.block_bytes)
    assert "beyond the model" in whole.line(1, 1) and "weights stay on disk" in parts.line(1, 1)
