"""Streams in files: the compressed model is the same to the last bit, and the temporary folder is empty again."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_bottleneck
from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import OutputError
from optimum_grail.streams.states import OffloadedStates

IDS = [{"input_ids": torch.randint(3, 60, (12,), generator=torch.Generator().manual_seed(i))} for i in range(10)]
IMAGES = [{"pixel_values": torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(i))} for i in range(10)]
PAIRS = [{**ids, "pixel_values": image["pixel_values"][:, :16, :16]} for ids, image in zip(IDS, IMAGES, strict=True)]


@pytest.mark.parametrize(
    ("build", "samples", "config"),
    [
        (tiny_llama, IDS, {}),
        (tiny_llama, IDS, {"allocation": "balanced:depth=true", "sparsity": 0.6}),
        (tiny_llama, IDS, {"preset": "grail"}),
        (tiny_bert, IDS, {"sparsity": 0.3}),
        (tiny_clip, PAIRS, {}),
        (tiny_bottleneck, IMAGES, {"sparsity": 0.3}),
    ],
)
def test_streams_in_files_change_nothing(
    build: Callable[[], nn.Module],
    samples: list[dict[str, torch.Tensor]],
    config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    torch.manual_seed(0)
    model = build().eval()
    written: list[bool] = []
    write = OffloadedStates._write
    monkeypatch.setattr(OffloadedStates, "_write", lambda self, state: written.append(True) or write(self, state))
    found = []
    for offload in (False, True):
        settings = {**config, "batch_size": 2, "offload_streams": offload}
        compressor = GrailCompressor(copy.deepcopy(model), settings)
        compressor.compress(calibration_dataset=samples)
        found.append(compressor.model.state_dict())
        assert bool(written) == offload
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    gc.collect()
    assert not [*tmp_path.iterdir()]


def test_a_disk_that_is_too_small_is_found_out_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100))
    written: list[bool] = []
    monkeypatch.setattr(OffloadedStates, "_write", lambda self, state: written.append(True))
    compressor = GrailCompressor(tiny_llama(), {"offload_streams": True})
    with pytest.raises(OutputError, match=r"1 MiB of disk.*TMPDIR"):
        compressor.compress(calibration_dataset=IDS)
    assert not written
