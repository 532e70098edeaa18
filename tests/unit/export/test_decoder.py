"""Models as sub-blocks, wherever their weights are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from optimum_grail.architectures.llama import SIZES, tiny_llama
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.errors import ArchitectureError, CheckpointError
from optimum_grail.export import run
from optimum_grail.export.decoder import Attention, FeedForward, read_decoder, reader, shapes_of
from optimum_grail.export.packing import heads_of, pack
from optimum_grail.export.rope import read_rope
from optimum_grail.export.targets import gguf as target
from optimum_grail.models.resolve import resolve
from optimum_grail.models.surgery import narrow_


def test_widths_and_names() -> None:
    model: Any = tiny_llama()
    layout = resolve(model)
    heads, channels = layout.of_block("model.layers.1")
    narrow_(model, heads, 1)
    narrow_(model, channels, 0)
    found = read_decoder(model)
    assert [block.width for block in found.sub_blocks] == [8, 48, 2, 0, 8, 48]
    attention, network = found.sub_blocks[2:4]
    assert isinstance(attention, Attention) and isinstance(network, FeedForward)
    assert (attention.heads, attention.groups, attention.query.rows) == (2, 1, 16)
    assert attention.query.weight == "model.layers.1.self_attn.q_proj.weight" and attention.query.bias is None
    assert network.norm == "model.layers.1.post_attention_layernorm.weight"
    assert (found.head, found.vocabulary, found.hidden, found.head_dim) == ("lm_head.weight", 96, 32, 8)


def test_keys_without_queries_are_nothing() -> None:
    """As a model is left that loses query heads by themselves, since all share one key."""
    model: Any = LlamaForCausalLM(LlamaConfig(**{**SIZES, "num_key_value_heads": 1}))
    attention = model.model.layers[1].self_attn
    attention.q_proj, attention.o_proj = nn.Linear(32, 0, bias=False), nn.Linear(0, 32, bias=False)
    found = read_decoder(model)
    assert [block.width for block in found.sub_blocks] == [8, 48, 0, 48, 8, 48]
    assert [heads_of(layer) for layer in pack(found.sub_blocks)] == [(8, 1), (0, 0), (8, 1)]


def test_tied_embeddings_and_biases() -> None:
    model: Any = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True, attention_bias=True))
    found = read_decoder(model)
    assert found.head is None
    assert found.sub_blocks[0].out.bias == "model.layers.0.self_attn.o_proj.bias"
    assert found.sub_blocks[1].out.bias is None


@pytest.mark.parametrize(("window", "context"), [(None, 128), (32, 32), (512, 128)])
def test_a_window_bounds_the_context(window: int | None, context: int) -> None:
    found = read_decoder(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=window)))
    assert (found.context, found.window) == (context, window if context == 32 else None)


def test_a_window_that_is_not_used() -> None:
    config = Qwen2Config(**SIZES, sliding_window=32, use_sliding_window=False)
    assert read_decoder(Qwen2ForCausalLM(config)).window is None
    slides = Qwen2Config(**SIZES, sliding_window=32, use_sliding_window=True, max_window_layers=1)
    assert read_decoder(Qwen2ForCausalLM(slides)).window == 32


def test_weights_that_nothing_reads_are_refused() -> None:
    model: Any = tiny_llama()
    model.lm_head.bias = nn.Parameter(torch.zeros(96))
    with pytest.raises(ArchitectureError, match=r"1 weights that no llama has, among them 'lm_head\.bias'"):
        read_decoder(model)


def test_heads_that_do_not_fit_are_refused() -> None:
    model: Any = tiny_llama()
    model.model.layers[1].self_attn.k_proj = nn.Linear(32, 24, bias=False)
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn has 64 query, 24 key"):
        read_decoder(model)


def test_positions_are_what_the_module_computes_with() -> None:
    plain = LlamaConfig(**SIZES)
    assert not read_rope(LlamaForCausalLM(plain).model.rotary_emb, plain).is_scaled
    scaled = LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0})
    found = read_rope(LlamaForCausalLM(scaled).model.rotary_emb, scaled)
    assert found.base == 500.0 and found.divisors == pytest.approx([4.0] * 4)


def test_weights_on_disk_give_the_same_file(embedded_llama: Any, tmp_path: Any, monkeypatch: Any) -> None:
    pytest.importorskip("gguf")
    here = load_model(embedded_llama)
    elsewhere = load_model(embedded_llama, offload=lambda skeleton, device: True)
    assert shapes_of(here) == shapes_of(elsewhere)
    name = "model.layers.2.mlp.up_proj.weight"
    assert torch.equal(reader(here)(name), reader(elsewhere)(name))
    run.export_model(embedded_llama, tmp_path / "a.gguf")
    monkeypatch.setattr(target, "choice_of", lambda low_memory: lambda skeleton, device: True)
    run.export_model(embedded_llama, tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
