"""Plans on disk: nothing in a checkpoint looks like weights but the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.checkpoints.plan_file import load_reductions
from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import CheckpointError


@pytest.fixture(scope="module")
def compressor() -> GrailCompressor:
    torch.manual_seed(0)
    found = GrailCompressor(tiny_llama(), {"preset": "magnitude"})
    found.compress()
    return found


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_engines_find_the_models_tensors_only(compressor: GrailCompressor, shard: str, tmp_path: Path) -> None:
    """An engine reads every ``*.safetensors`` of a folder that has no index."""
    compressor.save_pretrained(tmp_path / "small", max_shard_size=shard)
    files = [*(tmp_path / "small").rglob("*.safetensors")]
    assert (len(files) > 1) == (shard == "20KB")
    names = []
    for file in files:
        with safe_open(file, "pt") as tensors:
            names += tensors.keys()
    expected = compressor.model.state_dict()
    assert set(names) <= set(expected) and len(names) == len(set(names))
    assert {tensor.data_ptr() for tensor in expected.values()} == {expected[name].data_ptr() for name in names}


def test_plans_under_their_earlier_name_are_read(compressor: GrailCompressor, tmp_path: Path) -> None:
    compressor.save_pretrained(tmp_path / "small")
    found = load_reductions(tmp_path / "small")
    assert found.keys() == compressor.plan.keys()
    (tmp_path / "small" / "grail_plan.tensors").rename(tmp_path / "small" / "grail_plan.safetensors")
    for name, reduction in load_reductions(tmp_path / "small").items():
        assert torch.equal(reduction.assignment, found[name].assignment)


def test_no_plan(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"grail_plan\.tensors.*Name the folder"):
        load_reductions(tmp_path)
