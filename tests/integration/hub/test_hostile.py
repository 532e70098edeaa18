"""Models of the Hub are weighed by the headers of their files, before a weight is downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from optimum_grail.architectures.llama import tiny_llama

LOAD = """
import sys
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.errors import CheckpointError

try:
    load_model("org/base", allow_pickle="pickle" in sys.argv)
except CheckpointError as error:
    print(error)
else:
    print("loaded")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model, in two shards, to be changed and put on the Hub."""
    (tmp_path / "base").mkdir()
    tiny_llama().save_pretrained(tmp_path / "base", max_shard_size="80KB")
    return tmp_path / "base"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "loaded"),
        ({"vocab_size": 20_000_000}, "do not fit config.json"),
        ({"num_hidden_layers": 100_000}, "expected at most 1,000"),
    ],
    ids=["sound", "vocabulary", "layers"],
)
def test_weighed_before_the_download(
    change: dict[str, int], message: str, hub: Any, elsewhere: Callable[..., Any], folder: Path
) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    hub.add("org/base", folder)
    done = elsewhere(LOAD)
    assert done.returncode == 0, done.stderr
    assert message in done.stdout


def test_pickled_weights(hub: Any, elsewhere: Callable[..., Any], folder: Path) -> None:
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    torch.save(tiny_llama().state_dict(), folder / "pytorch_model.bin")
    hub.add("org/base", folder)
    done = elsewhere(LOAD)
    assert done.returncode == 0 and "pickled" in done.stdout, done.stderr
    assert not any("GET" in request and "pytorch_model.bin" in request for request in hub.requests)
    done = elsewhere(LOAD, "pickle")
    assert done.returncode == 0 and done.stdout.strip().endswith("loaded"), done.stderr
