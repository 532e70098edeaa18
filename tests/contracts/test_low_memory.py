"""Weights that stay on disk until their block's turn comes: the checkpoint is the same to the last bit."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.compressor import GrailCompressor
from optimum_grail.models.residence import hook_of
from optimum_grail.state.budget import Budget

IDS = [{"input_ids": torch.randint(3, 60, (12,), generator=torch.Generator().manual_seed(i))} for i in range(6)]
IMAGES = [{"pixel_values": torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(i))} for i in range(6)]
PAIRS = [{**ids, **image} for ids, image in zip(IDS, IMAGES, strict=True)]
QUICK = {"batch_size": 2, "allocation": "uniform"}
OFFLOADING = "ignore:Attempting to save a model with offloaded modules"


def tied_llama() -> nn.Module:
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=True))


def stored(folder: Path) -> dict[str, Tensor]:
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    if one.keys() != other.keys():
        return False
    return all(value.dtype == other[name].dtype and torch.equal(value, other[name]) for name, value in one.items())


def written(build: Callable[[], nn.Module], folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    torch.manual_seed(0)
    build().eval().to(dtype).save_pretrained(folder, max_shard_size="20KB")
    return folder


def orphans(model: nn.Module) -> list[str]:
    """Parameters without values that no hook would load."""
    empty = [name for name, parameter in model.named_parameters() if parameter.device.type == "meta"]
    return [name for name in empty if hook_of(model.get_submodule(name.rpartition(".")[0])) is None]


@pytest.mark.parametrize(
    ("build", "samples", "config", "dtype"),
    [
        (tiny_llama, IDS, {"preset": "wanda+grail", "allocation": "uniform"}, torch.bfloat16),
        (tiny_llama, IDS, {"allocation": "knapsack:depth=true", "sparsity": 0.6}, torch.bfloat16),
        (tiny_llama, IDS, {"affine": True, "allocation": "uniform"}, torch.bfloat16),
        (tiny_llama, IDS, {"selector": "fisher", "allocation": "uniform"}, torch.float32),
        (tiny_llama, IDS, {"selector": "magnitude", "compensator": "none", "allocation": "uniform"}, torch.float32),
        (tied_llama, IDS, {"allocation": "uniform"}, torch.bfloat16),
        (tiny_bert, IDS, {"sparsity": 0.3, "allocation": "uniform"}, torch.float32),
        (tiny_vit, IMAGES, {"allocation": "uniform"}, torch.float32),
        (tiny_clip, PAIRS, {"allocation": "uniform"}, torch.bfloat16),
    ],
)
def test_weights_on_disk_change_nothing(
    build: Callable[[], nn.Module],
    samples: list[dict[str, Tensor]],
    config: dict[str, Any],
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(work))
    source = written(build, tmp_path / "dense", dtype)
    reports = []
    for low_memory, name in ((False, "whole"), (True, "parts")):
        settings = {**config, "batch_size": 2, "low_memory": low_memory}
        compressor = GrailCompressor.from_pretrained(source, settings)
        compressor.compress(calibration_dataset=samples, save_directory=tmp_path / name)
        reports.append(compressor.report)
        empty = {parameter.device.type for parameter in compressor.model.parameters()} >= {"meta"}
        assert empty == low_memory
        assert not orphans(compressor.model)
        del compressor
        gc.collect()
        assert not [*work.iterdir()]
    assert same(stored(tmp_path / "whole"), stored(tmp_path / "parts"))
    assert reports[0].groups == reports[1].groups
    for size in ("parameters_before", "parameters_after", "block_parameters_after", "bytes_before", "bytes_after"):
        assert getattr(reports[0], size) == getattr(reports[1], size)


@pytest.mark.parametrize(
    "config",
    [{"preset": "wanda+grail"}, {"allocation": "uniform", "refit": "producers"}, {"allocation": "knapsack"}],
)
def test_so_it_is_with_a_trained_model(config: dict[str, Any], embedded_llama: Path, tmp_path: Path) -> None:
    source = tmp_path / "dense"  # two of its layers: the others take as long again
    AutoModelForCausalLM.from_pretrained(embedded_llama, num_hidden_layers=2).save_pretrained(source)
    samples = [{"input_ids": torch.randint(4096, (24,), generator=torch.Generator().manual_seed(i))} for i in range(8)]
    for low_memory, name in ((False, "whole"), (True, "parts")):
        compressor = GrailCompressor.from_pretrained(source, {**config, "low_memory": low_memory})
        compressor.compress(calibration_dataset=samples, save_directory=tmp_path / name)
    assert same(stored(tmp_path / "whole"), stored(tmp_path / "parts"))


def disk(folder: Path, offload: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, device_map={"": "disk"}, offload_folder=str(offload))


def partly(folder: Path, offload: Path) -> Any:
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.norm": "cpu"}
    places |= {"model.layers.1": "disk", "model.layers.2": "disk", "lm_head": "disk"}
    return AutoModelForCausalLM.from_pretrained(folder, device_map=places, offload_folder=str(offload))


def from_memory(folder: Path, offload: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder)
    cpu_offload(model, execution_device=torch.device("cpu"))
    return model


def from_disk(folder: Path, offload: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder)
    disk_offload(model, str(offload), execution_device=torch.device("cpu"))
    return model


@pytest.mark.filterwarnings(OFFLOADING)
@pytest.mark.parametrize("load", [disk, partly, from_memory, from_disk])
def test_a_dispatched_model_is_compressed_where_it_lies(load: Callable[[Path, Path], Any], tmp_path: Path) -> None:
    source = written(tiny_llama, tmp_path / "dense", torch.bfloat16)
    whole = GrailCompressor.from_pretrained(source, {**QUICK, "low_memory": False})
    whole.compress(calibration_dataset=IDS, save_directory=tmp_path / "whole")
    model = load(source, tmp_path / "offload")
    before = {name for name, parameter in model.named_parameters() if parameter.device.type == "meta"}
    assert before
    GrailCompressor(model, QUICK).compress(calibration_dataset=IDS, save_directory=tmp_path / "parts")
    assert {name for name, parameter in model.named_parameters() if parameter.device.type == "meta"} == before
    assert not orphans(model)
    assert same(stored(tmp_path / "whole"), stored(tmp_path / "parts"))
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, whole.model(ids).logits)
    if load in (disk, partly):  # transformers cannot save what accelerate alone has offloaded, dense or not
        model.save_pretrained(tmp_path / "direct")
        assert same(stored(tmp_path / "direct"), stored(tmp_path / "whole"))


@pytest.mark.filterwarnings(OFFLOADING)
def test_a_run_that_fails_early_leaves_a_dispatched_model_as_it_was(tmp_path: Path) -> None:
    model = disk(written(tiny_llama, tmp_path / "dense", torch.bfloat16), tmp_path / "offload")
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        before = model(ids).logits

    def refuse(*args: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr("optimum_grail.fit.fit.apply_", refuse)
        GrailCompressor(model, QUICK).compress(calibration_dataset=IDS)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not orphans(model)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)
    GrailCompressor(model, QUICK).compress(calibration_dataset=IDS)  # so it is not marked


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_run_that_fails_later_leaves_it_marked(blocks: int, tmp_path: Path) -> None:
    from optimum_grail.errors import CheckpointError
    from optimum_grail.fit import fit

    model = disk(written(tiny_llama, tmp_path / "dense"), tmp_path / "offload")
    calls, really = [], fit.apply_

    def fail_soon(*args: Any) -> None:
        if len(calls) > 2 * blocks:
            raise KeyboardInterrupt
        calls.append(args)
        really(*args)

    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr("optimum_grail.fit.fit.apply_", fail_soon)
        GrailCompressor(model, QUICK).compress(calibration_dataset=IDS)
    with pytest.raises(CheckpointError, match="half compressed"):
        GrailCompressor(model)


def test_blocks_that_are_kept_late_are_read_from_where_they_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[int] = []

    def late(_: Budget, size: int) -> bool:
        allowed.append(size)
        return len(allowed) == 2  # the first block waits for the second, and its weights go meanwhile

    monkeypatch.setattr(Budget, "allows", late)
    source = written(tiny_llama, tmp_path / "dense", torch.bfloat16)
    for low_memory, name in ((False, "whole"), (True, "parts")):
        allowed.clear()
        settings = {"allocation": "uniform", "low_memory": low_memory}
        GrailCompressor.from_pretrained(source, settings).compress(IDS, save_directory=tmp_path / name)
        assert len(allowed) > 2
    assert same(stored(tmp_path / "whole"), stored(tmp_path / "parts"))
