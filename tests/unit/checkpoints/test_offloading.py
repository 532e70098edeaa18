"""When weights stay on disk, and what a model that is loaded so is like."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import nn

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.checkpoints import offloading
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.checkpoints.offloading import choice_of, needed_bytes
from optimum_grail.errors import CheckpointError
from optimum_grail.models.residence import is_offloaded, resident

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("asked", "share_of_free", "stays"),
    [(True, 0.01, True), (None, 0.61, True), (None, 0.59, False), (False, 0.59, False), (None, None, False)],
)
def test_weights_stay_on_disk_where_they_would_not_fit(
    asked: bool | None, share_of_free: float | None, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Linear(100, 100).to("meta", torch.bfloat16)
    assert needed_bytes(model) == 4 * 10100
    free = None if share_of_free is None else int(40400 / share_of_free)
    monkeypatch.setattr(offloading, "available_memory", lambda device: free)
    assert choice_of(asked)(model, CPU) == stays


def test_where_they_must_not_stay_and_do_not_fit_the_sizes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offloading, "available_memory", lambda device: 2**30)
    with pytest.raises(CheckpointError, match=r"need 1\.0 GiB in float32.*only 1\.0 GiB.*--no-low-memory"):
        choice_of(False)(nn.Linear(2**14, 2**14, bias=False, device="meta"), CPU)


def test_a_checkpoint_is_read_when_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(work))
    dense = tiny_llama().eval().bfloat16()
    dense.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    model = load_model(tmp_path / "model", offload=choice_of(True), device="cpu")
    assert not model.training and is_offloaded(model)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}
    assert not [*work.rglob("*.safetensors")], "a copy of what is there already"
    with resident(model, "model.layers.0") as block:
        mapped = Path("/proc/self/maps")
        assert not mapped.exists() or str(tmp_path / "model") not in mapped.read_text(encoding="utf-8"), (
            "a file is open"
        )
        for name, parameter in block.named_parameters():
            assert torch.equal(parameter, dense.get_submodule("model.layers.0").get_parameter(name))
    del model, block, parameter
    gc.collect()
    assert not [*work.iterdir()]


def test_renamed_and_converted_weights(tmp_path: Path) -> None:
    """transformers keeps experts in one tensor and stores them one by one: such weights are written once more."""
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 2}
    dense = MixtralForCausalLM(MixtralConfig(**sizes, **heads)).eval()
    dense.save_pretrained(tmp_path)
    model = load_model(tmp_path, offload=choice_of(True), device="cpu")
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, dense(ids).logits)


def test_weights_that_are_not_stored_cannot_stay_on_disk(tmp_path: Path) -> None:
    model = tiny_bert()
    state = {name: value for name, value in model.state_dict().items() if "pooler" not in name}
    if len(state) == len(model.state_dict()):
        pytest.skip("this BERT has no pooler")
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(CheckpointError, match=r"no weights for its pooler.*--no-low-memory"):
        load_model(tmp_path, offload=choice_of(True), device="cpu")
