"""A state from anyone that speaks of heads that have shrunk inside: what no run can have written is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import CheckpointError

DRAW = torch.Generator().manual_seed(0)
ROWS = [{"input_ids": torch.randint(3, 90, (12,), generator=DRAW)} for _ in range(10)]
CONFIG = {"head_dim_sparsity": 0.25, "allocation": "uniform", "compensator": "grail"}
GROUP = "model.layers.0.heads"
Change = Callable[[dict[str, Tensor]], object]


@pytest.fixture(scope="module")
def interrupted(interrupt: Callable[..., Path]) -> Path:
    """The folder in which a run that was ended in its second block was to write ``out``."""
    return interrupt(CONFIG, ROWS)


def resumed(interrupted: Path, place: Path, change: Change) -> GrailCompressor:
    """The run, gone on with from a copy of the state in which ``change`` was made to the first block."""
    shutil.copytree(interrupted, place)
    file = place / ".grail-out.state" / "blocks" / "model.layers.0.safetensors"
    with safe_open(file, framework="pt") as opened:
        head = opened.metadata()
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, head)
    compressor = GrailCompressor(tiny_llama(), CONFIG)
    compressor.compress(ROWS, place / "out", resume=True)
    return compressor


def part(name: str, value: Tensor | None) -> Change:
    """Another tensor of what became of the heads, or none."""

    def change(tensors: dict[str, Tensor]) -> None:
        found = tensors.pop(f"plan/{GROUP}/{name}")
        if value is not None:
            tensors[f"plan/{GROUP}/{name}"] = value.to(found.dtype) if value.dtype != torch.float32 else value

    return change


def test_as_it_was_it_goes_on(interrupted: Path, tmp_path: Path) -> None:
    compressor = resumed(interrupted, tmp_path / "place", lambda tensors: None)
    assert compressor.plan is not None and compressor.plan[GROUP].inside is not None
    assert compressor.model.config.head_dim == 6


@pytest.mark.parametrize(
    "change",
    [
        part("pairs", None),
        part("values", None),
        part("outputs", None),
        part("pairs", torch.tensor([0, 1])),
        part("pairs", torch.tensor([2, 1, 0])),
        part("pairs", torch.tensor([1, 1, 2])),
        part("pairs", torch.tensor([-1, 1, 2])),
        part("pairs", torch.tensor([0, 1, 4])),
        part("pairs", torch.zeros(0, dtype=torch.int64)),
        part("pairs", torch.tensor(3)),
        part("values", torch.zeros(3, 6, 8, dtype=torch.float64)),
        part("values", torch.zeros(4, 8, dtype=torch.float64)),
        part("values", torch.full((4, 6, 8), torch.nan, dtype=torch.float64)),
        part("outputs", torch.zeros(8, 6, 8, dtype=torch.float64)),
        part("outputs", torch.full((8, 8, 6), torch.inf, dtype=torch.float64)),
        lambda tensors: [
            tensors.pop(key) for key in [*tensors] if key.rpartition("/")[2] in ("pairs", "values", "outputs")
        ],
        lambda tensors: tensors.update({"model.layers.0.self_attn.o_proj.weight": torch.zeros(32, 64)}),
    ],
)
def test_heads_that_cannot_be(change: Change, interrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        resumed(interrupted, tmp_path / "place", change)
    assert not (tmp_path / "place" / "out").exists()
