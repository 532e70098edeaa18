"""Compressed checkpoints through accelerate: device maps, and weights that stay on the CPU or on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from optimum_grail.compressor import GrailCompressor


@torch.no_grad()
def logits(model: Any, windows: Tensor) -> Tensor:
    return model.eval()(input_ids=windows[:2]).logits


def on_meta(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.device.type == "meta"}


@pytest.fixture(scope="module", params=["default", "free"])
def folder(request: pytest.FixtureRequest, llama_run: Callable[[str], Any]) -> Path:
    """One shape in all layers; widths of its own in each."""
    path: Path = llama_run(request.param).folder
    return path


@pytest.fixture(scope="module")
def expected(folder: Path, held_windows: Tensor) -> Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), held_windows)


def test_device_map_auto(folder: Path, expected: Tensor, held_windows: Tensor) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="auto")
    assert torch.equal(logits(model, held_windows), expected)


def test_disk_offload(folder: Path, expected: Tensor, held_windows: Tensor, tmp_path: Path) -> None:
    layers = AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers
    places = {f"model.layers.{layer}": "disk" if layer % 2 else "cpu" for layer in range(layers)}
    places |= {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, device_map=places, offload_folder=str(tmp_path / "offload")
    )
    assert {name.split(".")[2] for name in on_meta(model)} == {str(layer) for layer in range(1, layers, 2)}
    assert torch.equal(logits(model, held_windows), expected)
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32)
    assert torch.equal(logits(again, held_windows), expected)


def test_a_budget_of_memory_spills_to_disk(
    folder: Path, expected: Tensor, held_windows: Tensor, tmp_path: Path
) -> None:
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        device_map="auto",
        max_memory={"cpu": size},
        offload_folder=str(tmp_path / "offload"),
    )
    assert on_meta(model)
    assert torch.equal(logits(model, held_windows), expected)


def test_cpu_offload_of_a_loaded_model(folder: Path, expected: Tensor, held_windows: Tensor) -> None:
    from accelerate import cpu_offload

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert on_meta(model) == {name for name, _ in model.named_parameters()}
    assert torch.equal(logits(model, held_windows), expected)


def test_an_offloaded_dense_model_is_compressed_and_not_spoilt(
    embedded_llama: Path, held_windows: Tensor, tmp_path: Path
) -> None:
    samples = [{"input_ids": torch.randint(4096, (16,))} for _ in range(4)]
    found = []
    for places in ({"": "disk"}, {"": "cpu"}):
        model = AutoModelForCausalLM.from_pretrained(
            embedded_llama, device_map=places, offload_folder=str(tmp_path / "offload")
        )
        GrailCompressor(model, {"preset": "wanda+grail"}).compress(samples)
        assert bool(on_meta(model)) == (places[""] == "disk")
        found.append(logits(model, held_windows))
    assert torch.equal(*found)
