"""What is kept between runs: asked for once, found again, never mistaken for something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.errors import OutputError
from optimum_grail.survey.cache import StatisticsCache, fingerprint


class Counter:
    """Makes tensors and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        return {"a": torch.arange(3) * self.calls, "b": torch.ones(2, 2, dtype=torch.float64)}


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def test_in_memory_things_are_computed_once() -> None:
    cache, make = StatisticsCache.of(model()), Counter()
    first, again = (cache.get("survey", {"data": "x"}, make) for _ in range(2))
    assert make.calls == 1 and first is again
    cache.get("survey", {"data": "y"}, make)
    cache.get("gradients", {"data": "x"}, make)
    assert make.calls == 3


def test_the_next_process_finds_them_in_the_folder(tmp_path: Path) -> None:
    make = Counter()
    for _ in range(2):
        found = StatisticsCache.of(model(), tmp_path / "stats").get("survey", {"data": "x"}, make)
        assert torch.equal(found["a"], torch.arange(3)) and found["b"].dtype == torch.float64
    assert make.calls == 1
    StatisticsCache.of(model(1), tmp_path / "stats").get("survey", {"data": "x"}, make)
    assert make.calls == 2, "another model has other statistics"
    assert {path.suffix for path in (tmp_path / "stats").iterdir()} == {".safetensors"}


@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_a_damaged_file_is_written_anew(damage: str, tmp_path: Path) -> None:
    make = Counter()
    StatisticsCache.of(model(), tmp_path).get("survey", {"data": "x"}, make)
    StatisticsCache.of(model(), tmp_path).get("survey", {"data": "y"}, make)
    one, other = tmp_path.iterdir()
    one.write_bytes(one.read_bytes()[:40] if damage == "truncated" else other.read_bytes())
    for data in ("x", "y"):
        StatisticsCache.of(model(), tmp_path).get("survey", {"data": data}, make)
    assert make.calls == 3
    for data in ("x", "y"):
        StatisticsCache.of(model(), tmp_path).get("survey", {"data": data}, make)
    assert make.calls == 3


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file.*--stats-cache"):
        StatisticsCache.of(model(), tmp_path / "file")


def test_the_fingerprint_sees_values_shapes_and_types() -> None:
    seen = {
        fingerprint(item)
        for item in (
            model(),
            model(1),
            model().double(),
            nn.Linear(2, 3),
            nn.Linear(3, 2, bias=False),
            nn.BatchNorm2d(2),
        )
    }
    assert len(seen) == 6 and fingerprint(model()) == fingerprint(model())
    halves = [model().to(torch.bfloat16) for _ in range(2)]
    assert fingerprint(halves[0]) == fingerprint(halves[1])
