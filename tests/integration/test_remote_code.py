"""``include_modeling_code=True``: the checkpoint loads where this package is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.gpt2 import tiny_gpt2
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_bottleneck
from optimum_grail.compressor import GrailCompressor

IDS = torch.arange(3, 15)[None]
IMAGE = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
LARGE = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
FLOORLESS = {"allocation": "knapsack:min_heads=0,min_ffn=0"}
MODELS: dict[str, tuple[Callable[[], nn.Module], str, dict[str, torch.Tensor], dict[str, Any]]] = {
    "llama": (tiny_llama, "AutoModelForCausalLM", {"input_ids": IDS}, {"head_sparsity": 0.25, "ffn_sparsity": 0.4}),
    "llama base": (tiny_llama, "AutoModel", {"input_ids": IDS}, {"head_sparsity": 0.25}),
    "llama without sub-blocks": (
        tiny_llama,
        "AutoModelForCausalLM",
        {"input_ids": IDS},
        {"sparsity": 0.9, **FLOORLESS},
    ),
    "bert without sub-blocks": (tiny_bert, "AutoModel", {"input_ids": IDS}, {"sparsity": 0.9, **FLOORLESS}),
    "gpt2 without sub-blocks": (tiny_gpt2, "AutoModelForCausalLM", {"input_ids": IDS}, {"sparsity": 0.9, **FLOORLESS}),
    "bert": (tiny_bert, "AutoModel", {"input_ids": IDS}, {"head_sparsity": 0.5, "ffn_sparsity": 0.5}),
    "clip": (
        tiny_clip,
        "AutoModelForZeroShotImageClassification",
        {"input_ids": IDS, "pixel_values": IMAGE},
        {"head_sparsity": 0.5},
    ),
    "resnet": (
        tiny_bottleneck,
        "AutoModelForImageClassification",
        {"pixel_values": LARGE},
        {"channel_sparsity": 0.5},
    ),
}
"""The model, the auto class that loads it, inputs, and what goes: all of it more than the stock config can say."""

WITHOUT_US = """
import importlib.abc, pathlib, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "optimum_grail":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
import torch, transformers
from transformers.utils import logging
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    job = torch.load(folder / "job.pt")
    door = getattr(transformers, job["door"])
    model, told = door.from_pretrained(folder / "model", trust_remote_code=True, output_loading_info=True)
    assert not told["missing_keys"] and not told["mismatched_keys"], told
    with torch.inference_mode():
        torch.save(model.eval()(**job["inputs"])[0], folder / "output.pt")
    if model.can_generate():
        options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        assert model.generate(job["inputs"]["input_ids"], **options).shape[1] == 16
    try:
        door.from_pretrained(folder / "model")
    except RuntimeError as error:
        assert "mismatch" in str(error)
    else:
        raise SystemExit("loaded without the code")
assert "optimum_grail" not in sys.modules
"""


def compressed(name: str, folder: Path, **settings: Any) -> nn.Module:
    build, _, _, sparsity = MODELS[name]
    config = {"preset": "magnitude", "standalone": False, **sparsity, **settings}
    compressor = GrailCompressor(build(), config)
    compressor.compress(calibration_dataset=[{"input_ids": IDS[0]}] * 4 if "allocation" in config else None)
    compressor.save_pretrained(folder, include_modeling_code=True)
    return compressor.model


def test_every_kind_of_model_loads_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {}
    for name, (_, door, inputs, _) in MODELS.items():
        folder = tmp_path / "jobs" / name
        model = compressed(name, folder / "model")
        torch.save({"door": door, "inputs": inputs}, folder / "job.pt")
        whole = model.base_model if door == "AutoModel" else model
        with torch.inference_mode():
            expected[name] = whole(**inputs)[0]
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    subprocess.run([sys.executable, "-c", WITHOUT_US, str(tmp_path / "jobs")], check=True, timeout=240)
    for name, tensor in expected.items():
        found = torch.load(tmp_path / "jobs" / name / "output.pt")
        torch.testing.assert_close(found, tensor, rtol=1e-5, atol=1e-6)


def test_with_the_package_the_code_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    model = compressed("llama", tmp_path / "small")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert type(plain) is type(model)
    trusted = AutoModelForCausalLM.from_pretrained(tmp_path / "small", trust_remote_code=True)
    assert type(trusted).__name__ == "GrailLlamaForCausalLM"
    for loaded in (plain, trusted):
        assert torch.equal(loaded(IDS).logits, model(IDS).logits)


def test_the_card_says_so(tmp_path: Path) -> None:
    compressed("llama", tmp_path / "small")
    assert "trust_remote_code=True" in (tmp_path / "small" / "README.md").read_text(encoding="utf-8")


def test_what_plain_transformers_loads_gets_no_code(tmp_path: Path) -> None:
    compressor = GrailCompressor(tiny_llama(), {"preset": "magnitude", "ffn_sparsity": 0.5})
    compressor.compress()
    compressor.save_pretrained(tmp_path / "small", include_modeling_code=True)
    assert compressor.report.standalone and not (tmp_path / "small" / "modeling_grail.py").exists()
    assert "auto_map" not in json.loads((tmp_path / "small" / "config.json").read_text(encoding="utf-8"))


def test_without_asking_there_is_no_code(tmp_path: Path) -> None:
    compressor = GrailCompressor(tiny_bert(), {"preset": "magnitude", "head_sparsity": 0.5})
    compressor.compress(save_directory=tmp_path / "small")
    assert not (tmp_path / "small" / "modeling_grail.py").exists()
