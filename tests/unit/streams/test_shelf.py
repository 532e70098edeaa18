"""Statistics in files are the statistics."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.compressor import GrailCompressor
from optimum_grail.core.moments import Moments, Statistics, Subset, TargetMoments
from optimum_grail.errors import OutputError
from optimum_grail.streams import collect
from optimum_grail.streams.shelf import FiledSubsets

ROWS, DRIFT = torch.randn(20, 6), torch.randn(20, 4)
IDS = [{"input_ids": torch.randint(3, 60, (12,), generator=torch.Generator().manual_seed(i))} for i in range(6)]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def subsets() -> Iterator[Subset]:
    target = TargetMoments.of(DRIFT, ROWS)
    moments = Moments.of(ROWS)
    yield Subset(moments, target)
    yield Subset(Moments(moments.count, moments.total, moments.gram, target))


def test_what_is_read_is_what_was_measured(work: Path) -> None:
    filed = FiledSubsets(subsets())
    assert len(filed) == 2 and len([*filed]) == 2
    for found, wanted in zip(filed, subsets(), strict=True):
        assert found.moments.count == wanted.moments.count
        assert torch.equal(found.moments.gram, wanted.moments.gram)
        assert torch.equal(found.moments.total, wanted.moments.total)
        for one, other in ((found.target, wanted.target), (found.moments.offset, wanted.moments.offset)):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert all(torch.equal(value, vars(other)[name]) for name, value in vars(one).items())
    together = Statistics(filed).moments
    assert torch.equal(together.gram, 2 * Moments.of(ROWS).gram) and together.count == 40
    assert [*work.iterdir()]
    del filed, together
    gc.collect()
    assert not [*work.iterdir()]


def test_files_that_somebody_removed_are_missed_by_name(work: Path) -> None:
    filed = FiledSubsets(subsets())
    for file in work.rglob("*.safetensors"):
        file.unlink()
    with pytest.raises(OutputError, match=r"removed by somebody else.*TMPDIR"):
        filed[0]


def test_a_run_with_weights_elsewhere_keeps_large_statistics_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "LARGE", 1)
    filed: list[int] = []
    monkeypatch.setattr(collect, "FiledSubsets", lambda subsets: filed.append(1) or FiledSubsets(subsets))
    found = []
    for offloaded in (False, True):
        model = tiny_llama()
        if offloaded:
            cpu_offload(model, execution_device=torch.device("cpu"))
        GrailCompressor(model, {"batch_size": 2, "allocation": "uniform"}).compress(IDS)
        assert bool(filed) == offloaded
        with torch.no_grad():
            found.append(model(IDS[0]["input_ids"][None]).logits)
    assert torch.equal(*found)
