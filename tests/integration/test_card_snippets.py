"""The code on a card runs as it stands, in a process of its own, and its shapes are those of the model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.compressor import GrailCompressor

RUN = """
import contextlib, io, os, re, sys
for folder in sys.argv[1:]:
    os.chdir(folder)
    code = open("README.md").read().split("```python\\n")[1].split("```")[0]
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(code, {})
    sizes = re.search(r"torch.Size\\((\\[.*?\\])\\)", shown.getvalue()).group(1)
    said = re.search(r"\\.shape\\)  # (\\[.*?\\])", code).group(1)
    pattern = re.escape(said).replace("tokens", r"\\d+")
    assert re.fullmatch(pattern, sizes), (folder, said, sizes)
    print(folder, said, shown.getvalue().strip())
"""
FAST: dict[str, Any] = {"preset": "grail", "num_samples": 6, "standalone": False}


def run(*folders: Path) -> str:
    command = [sys.executable, "-c", RUN, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_language_models_and_models_without_a_processor(llama_run: Callable[[str], Any], tmp_path: Path) -> None:
    ids = {"input_ids": torch.arange(3, 15)}
    pixels = {"pixel_values": torch.linspace(-1, 1, 768).view(3, 16, 16)}
    large = {"pixel_values": torch.linspace(-1, 1, 3072).view(3, 32, 32)}
    tiny = {
        "bert": (tiny_bert(), ids, {"head_sparsity": 0.5}),
        "clip": (tiny_clip(), ids | pixels, {"ffn_sparsity": 0.5}),
        "resnet": (tiny_basic(), large, {"channel_sparsity": 0.5}),
    }
    for name, (model, sample, sparsity) in tiny.items():
        GrailCompressor(model, {**FAST, **sparsity}).compress([sample] * 6, tmp_path / name)
    folders = [llama_run("default").folder, llama_run("free").folder, *(tmp_path / name for name in tiny)]
    shown = run(*folders)
    assert shown.count("[1, tokens, 4096]") == 2 and "Once upon a time" in shown
    assert "[1, 12, 32]" in shown and "[1, 1]" in shown and "[1, 5]" in shown


@pytest.mark.slow
def test_models_with_images(data_dir: Path, minilm: Path, tmp_path: Path) -> None:
    jobs: dict[str, tuple[Path, Path, dict[str, Any]]] = {
        "vit": (data_dir / "vit-cifar10", data_dir / "cifar10-lossless" / "test.parquet", {"head_sparsity": 0.5}),
        "clip": (data_dir / "clip-emoji", data_dir / "emoji-captions" / "test.parquet", {"head_sparsity": 0.5}),
        "bert": (minilm, data_dir / "stsb" / "dev.csv", {"head_sparsity": 0.5}),
    }
    for name, (model, data, sparsity) in jobs.items():
        compressor = GrailCompressor.from_pretrained(model, {**FAST, **sparsity, "dataset": str(data)})
        compressor.compress(save_directory=tmp_path / name)
    shown = run(*(tmp_path / name for name in jobs))
    assert "[1, 10]" in shown and "[1, 1]" in shown and "[1, tokens, 384]" in shown
