"""Nobody is promised that plain transformers loads a model before its stock class was built and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel

from optimum_grail.architectures.bert import SPECS as BERTS
from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.clip import tiny_clip, tiny_clip_vision
from optimum_grail.architectures.llama import HEADS, LLAMA, MLP, tiny_llama, tiny_mistral
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.compressor import GrailCompressor
from optimum_grail.core.spec import ArchitectureSpec, Heads, always
from optimum_grail.models.standalone import misfit

LYING_LLAMA = replace(LLAMA, groups=(replace(HEADS, accepts=always), MLP))
"""LlamaConfig refuses 6 heads, which do not divide the hidden size of 32."""
LYING_BERT = replace(
    BERTS[0], groups=tuple(replace(g, accepts=always) if isinstance(g, Heads) else g for g in BERTS[0].groups)
)
"""BertConfig takes 2 heads, and its class then builds larger ones."""
IDS = torch.arange(3, 15)[None]


@pytest.mark.parametrize(
    "build", [tiny_llama, tiny_mistral, tiny_bert, tiny_clip, tiny_clip_vision, tiny_vit, tiny_basic]
)
def test_dense_models_fit(build: Callable[[], Any]) -> None:
    model = build()
    assert misfit(model, model.config) == ""


def test_a_tensor_that_differs_is_named() -> None:
    model = tiny_llama()
    model.config.intermediate_size = 40
    assert misfit(model, model.config).endswith("gate_proj.weight is (48, 32), and LlamaForCausalLM builds (40, 32)")
    model.config.intermediate_size = 48
    model.config.mlp_bias = True
    assert "is absent, and LlamaForCausalLM builds" in misfit(model, model.config)
    model.config.num_attention_heads = 7
    assert misfit(model, model.config)


def test_a_table_does_not_help_the_stock_class() -> None:
    model = tiny_llama()
    compressor = GrailCompressor(model, {"preset": "magnitude", "head_sparsity": 0.25, "standalone": False})
    compressor.compress()
    assert not compressor.report.standalone and "q_proj.weight" in misfit(model, model.config)


@pytest.mark.parametrize(
    ("build", "spec", "sparsity"),
    [(tiny_llama, LYING_LLAMA, 0.25), (tiny_bert, LYING_BERT, 0.5)],
    ids=["the config refuses", "the class builds another shape"],
)
def test_a_map_that_lies_is_found_out(
    build: Callable[[], nn.Module], spec: ArchitectureSpec, sparsity: float, tmp_path: Path
) -> None:
    settings = {"preset": "magnitude", "head_sparsity": sparsity, "allocation": "uniform"}
    compressor = GrailCompressor(build(), settings, spec=spec)
    compressor.compress(save_directory=tmp_path / "small")
    report = compressor.report
    assert not report.standalone
    assert any("Plain transformers cannot load the result" in note for note in report.warnings)
    assert "import optimum_grail" in (tmp_path / "small" / "README.md").read_text(encoding="utf-8")
    again = AutoModel.from_pretrained(tmp_path / "small").eval()
    expected = compressor.model.base_model.eval()(IDS).last_hidden_state
    assert torch.equal(again(IDS).last_hidden_state, expected)


@pytest.mark.parametrize("build", [tiny_llama, tiny_bert, tiny_vit])
def test_a_map_that_tells_the_truth_keeps_its_word(build: Callable[[], nn.Module]) -> None:
    compressor = GrailCompressor(build(), {"preset": "magnitude", "ffn_sparsity": 0.5, "allocation": "uniform"})
    compressor.compress()
    assert compressor.report.standalone
    assert not any("Plain transformers" in note for note in compressor.report.warnings)


def test_what_no_table_can_say_is_told_too() -> None:
    """A module that its owner has changed: the stock class builds another one."""
    model = tiny_llama()
    model.lm_head.bias = nn.Parameter(torch.zeros(96))
    compressor = GrailCompressor(model, {"preset": "magnitude", "ffn_sparsity": 0.5, "allocation": "uniform"})
    compressor.compress()
    assert not compressor.report.standalone
    assert any("lm_head.bias is (96,), and LlamaForCausalLM builds nothing" in t for t in compressor.report.warnings)
