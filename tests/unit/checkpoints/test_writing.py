"""Writing weights that are not in memory."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload
from safetensors.torch import load_file

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.checkpoints import writing
from optimum_grail.checkpoints.writing import write_weights


@pytest.mark.parametrize("offloaded", [False, True])
def test_weights_are_written_wherever_they_are(
    offloaded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SHARD", 20_000)
    model = tiny_llama()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    if offloaded:
        cpu_offload(model, execution_device=torch.device("cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_weights(model, tmp_path, "5GB")  # type: ignore[arg-type]
    files = sorted(tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == offloaded, "a shard is in memory as a whole"
    found = {name: value for file in files for name, value in load_file(file).items()}
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert "hf_device_map" not in vars(model)
