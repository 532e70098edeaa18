"""The scripts per family run, and the compressed model is about as good as the dense one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("name", "kept"), [("bert", 0.9), ("vit", 0.85), ("clip", 0.5), ("resnet", 0.8)])
def test_script(name: str, kept: float, script: Callable[..., str], data_dir: Path, minilm: Path) -> None:
    found = json.loads(script(name, "--data", data_dir, "--num-samples", "96", "--eval-samples", "200", "--json"))
    assert found["achieved"] > 0.2
    assert found["compressed"] > kept * found["dense"]


def test_what_is_missing_is_told(script: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--data"):
        script("vit", "--data", tmp_path)


def test_a_wrong_number_is_told(script: Callable[..., str], data_dir: Path) -> None:
    with pytest.raises(SystemExit, match="num_samples is 0; expected a whole number"):
        script("vit", "--data", data_dir, "--num-samples", "0")
