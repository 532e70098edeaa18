"""How large a model is, as its files hold it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.compressor import GrailCompressor
from optimum_grail.models.resolve import resolve
from optimum_grail.models.size import Size


def stored(folder: Path) -> int:
    return sum(tensor.nbytes for tensor in load_file(folder / "model.safetensors").values())


def test_bytes_are_those_of_the_files_where_dtypes_are_mixed(tmp_path: Path) -> None:
    model = tiny_llama().bfloat16()
    model.lm_head.float()
    model.save_pretrained(tmp_path / "dense")
    assert Size.of(model, resolve(model)).bytes == stored(tmp_path / "dense")
    compressor = GrailCompressor(model, {"preset": "magnitude", "ffn_sparsity": 0.5})
    compressor.compress(save_directory=tmp_path / "small")
    assert model.lm_head.weight.dtype == torch.float32 and model.dtype == torch.bfloat16
    report = compressor.report
    assert (report.bytes_before, report.bytes_after) == (stored(tmp_path / "dense"), stored(tmp_path / "small"))
    assert report.bytes_after < report.bytes_before
    assert load_model(tmp_path / "small", device="cpu") is not None


def test_tied_weights_count_once() -> None:
    model = tiny_llama()
    before = Size.of(model, resolve(model))
    model.lm_head.weight = model.model.embed_tokens.weight
    tied = Size.of(model, resolve(model))
    assert before.bytes - tied.bytes == model.lm_head.weight.nbytes
    assert before.blocks == tied.blocks
