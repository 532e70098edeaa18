"""Checkpoints for plain transformers: written where its own configuration can say the widths, refused otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from optimum_grail.architectures._tiny import seeded
from optimum_grail.errors import ArchitectureError
from optimum_grail.export.plain import PER_LAYER, STOCK
from optimum_grail.export.run import export_model
from optimum_grail.models.hook import install
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import write_config_
from optimum_grail.models.surgery import narrow_

install()
IDS = torch.arange(3, 19).view(1, 16)


def small(folder: Path, channels: tuple[int, int], **settings: Any) -> Any:
    """A saved LLaMA with these channels by layer."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, **settings}
    model: Any = seeded(lambda: LlamaForCausalLM(LlamaConfig(num_attention_heads=4, initializer_range=0.2, **sizes)))
    layout = resolve(model)
    for group in layout.groups:
        if group.kind != "heads":
            narrow_(model, group, channels[int(group.layer)])
    write_config_(model, layout, {"version": "0"})
    model.save_pretrained(folder)
    return model.eval()


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(IDS).logits


def test_one_width_for_all_layers(tmp_path: Path) -> None:
    model = small(tmp_path / "small", (20, 20))
    done = export_model(tmp_path / "small", tmp_path / "plain", "transformers")
    assert done.form == STOCK and done.agreement == {"worst": 0.0, "same": 32, "answers": 32}
    config = json.loads((tmp_path / "plain" / "config.json").read_text(encoding="utf-8"))
    assert config["intermediate_size"] == 20 and "layers" not in config["grail_config"]
    with torch.no_grad():
        assert torch.equal(logits(tmp_path / "plain"), model(IDS).logits)


def test_a_width_per_layer_that_the_class_does_not_read(tmp_path: Path) -> None:
    small(tmp_path / "small", (20, 48))
    with pytest.raises(ArchitectureError, match=r"LlamaForCausalLM: model\.layers\.0\.mlp.*--standalone"):
        export_model(tmp_path / "small", tmp_path / "plain", "transformers")
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_a_width_per_layer_that_the_class_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As families do whose code asks the configuration layer by layer."""
    model = small(tmp_path / "small", (20, 48))

    class Layer(modeling_llama.LlamaDecoderLayer):
        def __init__(self, config: Any, layer_idx: int) -> None:
            super().__init__(config.per_layer_config[layer_idx], layer_idx)

    monkeypatch.setattr(modeling_llama, "LlamaDecoderLayer", Layer)
    done = export_model(tmp_path / "small", tmp_path / "plain", "transformers")
    assert done.form == PER_LAYER and "per_layer_config" in done.notes[0]
    config = json.loads((tmp_path / "plain" / "config.json").read_text(encoding="utf-8"))
    assert config["per_layer_config"] == {"0": {"intermediate_size": 20}} and "layers" not in config["grail_config"]
    with torch.no_grad():
        assert torch.equal(logits(tmp_path / "plain"), model(IDS).logits)
