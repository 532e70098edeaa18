"""The scripts per family run as a user runs them, and the compressed model is about as good as the dense one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("script", "kept"), [("bert", 0.9), ("vit", 0.85), ("clip", 0.5), ("resnet", 0.8)])
def test_script(script: str, kept: float, repository: Path, data_dir: Path, minilm: Path) -> None:
    command = [sys.executable, f"examples/{script}.py", "--data", str(data_dir), "--json"]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["achieved"] > 0.2
    assert found["compressed"] > kept * found["dense"]


def test_what_is_missing_is_told(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "examples/vit.py", "--data", str(tmp_path)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "--data" in done.stderr
