"""Folders for vLLM. It is not installed here: layers are built as its code builds them, of what config.json says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from optimum_grail.architectures._tiny import seeded
from optimum_grail.errors import ArchitectureError, OutputError
from optimum_grail.export.run import export_model
from optimum_grail.models.hook import install
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import write_config_
from optimum_grail.models.surgery import narrow_

install()
SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "initializer_range": 0.2,
}
IDS = torch.arange(3, 35).view(2, 16)


class Missing(nn.Module):
    """An attention without heads (``no_op``)."""

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, None]:
        """Nothing."""
        return torch.zeros_like(hidden_states), None


class Nothing(nn.Module):
    """A feed-forward network that has gone (``no_op``)."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Nothing."""
        return torch.zeros_like(hidden_states)


def rebuilt(folder: Path) -> Any:
    """A LLaMA whose layers have what ``block_configs`` says, with the folder's weights, none missing or unknown."""
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    shared = {name: getattr(config, name) for name in ("vocab_size", "hidden_size", "head_dim", "rms_norm_eps")}
    shared |= {name: getattr(config, name) for name in ("rope_parameters", "attention_bias", "mlp_bias")}
    shared |= {name: getattr(config, name) for name in ("tie_word_embeddings", "hidden_act")}

    def built(layers: int, groups: int, channels: int) -> Any:
        sizes = {"num_hidden_layers": layers, "num_key_value_heads": groups, "intermediate_size": channels}
        values = LlamaConfig(**shared, **sizes)
        values.num_attention_heads = config.num_attention_heads  # not asked to divide the hidden size
        return LlamaForCausalLM(values)

    model = built(config.num_hidden_layers, 1, 1)
    for index, block in enumerate(config.block_configs):
        assert not hasattr(block.ffn, "ffn_mult")
        groups = config.num_attention_heads // block.attention.n_heads_in_group
        layer = built(index + 1, groups, max(block.ffn.intermediate_size, 1)).model.layers[index]
        if block.attention.no_op:
            layer.self_attn, layer.input_layernorm = Missing(), nn.Identity()
        if block.ffn.no_op:
            layer.mlp, layer.post_attention_layernorm = Nothing(), nn.Identity()
        model.model.layers[index] = layer
    report = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert report.unexpected_keys == []
    assert set(report.missing_keys) <= ({"lm_head.weight"} if config.tie_word_embeddings else set())
    model.tie_weights()
    return model.eval()


def compressed(folder: Path, widths: tuple[tuple[int, int], ...], **settings: Any) -> Any:
    """A saved model with these key-value heads and channels by layer."""
    model: Any = seeded(lambda: LlamaForCausalLM(LlamaConfig(**{**SIZES, **settings})))
    layout = resolve(model)
    for index, (heads, channels) in enumerate(widths):
        for group in layout.of_block(f"model.layers.{index}"):
            narrow_(model, group, heads if group.kind == "heads" else channels)
    write_config_(model, layout, {"version": "0"})
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}])
@pytest.mark.parametrize(
    "widths",
    [
        ((4, 48), (4, 48), (4, 48), (4, 48)),
        ((3, 40), (4, 33), (1, 48), (2, 17)),
        ((4, 48), (0, 20), (2, 0), (0, 48)),
        ((0, 48), (3, 0), (0, 0), (2, 0)),
    ],
)
def test_the_folder_computes_the_same(widths: Any, settings: Any, tmp_path: Path) -> None:
    model = compressed(tmp_path / "small", widths, **settings)
    done = export_model(tmp_path / "small", tmp_path / "vllm", "vLLM")
    assert done.engine == "vLLM" and done.path == tmp_path / "vllm"
    with torch.no_grad():
        assert torch.allclose(rebuilt(tmp_path / "vllm")(IDS).logits, model(IDS).logits, atol=1e-4)


def test_a_real_model_with_its_tokenizer(embedded_llama: Path, tmp_path: Path) -> None:
    done = export_model(embedded_llama, tmp_path / "vllm", "nemotron-nas")
    assert [row.type for row in done.rows] == ["bfloat16"]
    assert len(done.notes) == 1  # nothing had to be padded
    text = "Once upon a time"
    wanted = AutoTokenizer.from_pretrained(embedded_llama)(text)["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path / "vllm", trust_remote_code=True)(text)["input_ids"] == wanted
    with pytest.raises(OutputError, match="--overwrite"):
        export_model(embedded_llama, tmp_path / "vllm", "nemotron-nas")
    export_model(embedded_llama, tmp_path / "vllm", "nemotron-nas", overwrite=True)


def test_what_vllm_has_no_such_layers_for(tmp_path: Path) -> None:
    LlamaConfig(**SIZES, architectures=["Qwen3ForCausalLM"]).save_pretrained(tmp_path / "other")
    with pytest.raises(ArchitectureError, match="llama, mistral, qwen2 only"):
        export_model(tmp_path / "other", tmp_path / "vllm", "nemotron-nas")
    assert not (tmp_path / "vllm").exists()
