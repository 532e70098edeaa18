"""Rows of tokens, in models of many forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from optimum_grail.errors import ArchitectureError
from optimum_grail.vocabulary.plan import VocabularyPlan
from optimum_grail.vocabulary.rows import gather_, size, token_rows

ROWS = 96
KEPT = (0, 1, 2, 3, 7, 8, 20, 21, 50, 90)
PLAN = VocabularyPlan(KEPT, 16, {})
NEW = torch.tensor([[4, 9, 6, 8, 5, 2]])
OLD = torch.tensor(KEPT)[NEW]
SMALL: dict[str, Any] = {"vocab_size": ROWS, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def llama(**more: Any) -> Any:
    return LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=48, pad_token_id=2, **more))


def bert(kind: Any = BertForMaskedLM) -> Any:
    # as many positions as tokens: they stay
    return kind(BertConfig(**SMALL, intermediate_size=48, max_position_embeddings=ROWS))


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=ROWS, n_embd=32, n_layer=1, n_head=2, n_positions=ROWS))


def bart() -> Any:
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = BartConfig(vocab_size=ROWS, d_model=32, encoder_ffn_dim=48, decoder_ffn_dim=48, **sizes)
    model = BartForConditionalGeneration(config)
    model.final_logits_bias.normal_()
    return model


def t5(tied: bool = True) -> Any:
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=ROWS, tie_word_embeddings=tied, **sizes))


MODELS: dict[str, Callable[[], Any]] = {
    "llama": llama,
    "llama, tied": lambda: llama(tie_word_embeddings=True),
    "bert": bert,
    "gpt2": gpt2,
    "bart": bart,
    "t5": t5,
    "t5, untied": lambda: t5(tied=False),
}


def saved(model: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.eval().save_pretrained(folder)
    return folder


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    inputs = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    return model(input_ids=ids, **inputs).logits


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_tokens_that_stay_are_the_same(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    saved(model, tmp_path)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    bias = torch.zeros(ROWS)
    expected = logits(model, OLD)
    rows = token_rows(tmp_path)
    assert rows.count == ROWS
    gather_(model, rows.axes, PLAN)
    found = logits(model, NEW)
    assert found.shape[-1] == 16 and model.config.vocab_size == 16
    assert torch.equal(found[..., : len(KEPT)], expected[..., list(KEPT)])
    assert torch.equal(found[..., len(KEPT) :], bias[:6].expand_as(found[..., len(KEPT) :]))
    for key, tensor in model.state_dict().items():
        if key in rows.axes:
            old = before[key].index_select(rows.axes[key], torch.tensor(KEPT))
            assert torch.equal(tensor.narrow(rows.axes[key], 0, len(KEPT)), old)
        else:
            assert torch.equal(tensor, before[key])


@pytest.mark.parametrize("name", MODELS)
def test_sizes_are_those_of_the_parameters(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    saved(model, tmp_path)
    rows = token_rows(tmp_path)
    assert size(rows, ROWS) == 4 * sum(parameter.numel() for parameter in model.parameters())
    gather_(model, rows.axes, PLAN)
    assert size(rows, 16) == 4 * sum(parameter.numel() for parameter in model.parameters())


def test_a_classifier_has_no_head_of_tokens(tmp_path: Path) -> None:
    rows = token_rows(saved(bert(BertForSequenceClassification), tmp_path))
    assert rows.axes == {"bert.embeddings.word_embeddings.weight": 0}


def test_tied_tensors_stay_tied(tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=True)
    gather_(model, token_rows(saved(model, tmp_path)).axes, PLAN)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_several_models_in_one_are_refused(tmp_path: Path) -> None:
    text = {**SMALL, "intermediate_size": 48}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config={**vision, "image_size": 16, "patch_size": 8}))
    with pytest.raises(ArchitectureError, match="CLIPModel consists of several models"):
        token_rows(saved(model, tmp_path))


class Second(LlamaForCausalLM):
    """Has another embedding, which nobody resizes."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.other = torch.nn.Embedding(config.vocab_size, 4)


def test_an_embedding_that_is_left_as_it_is_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LlamaConfig(**SMALL, intermediate_size=48)
    monkeypatch.setattr("optimum_grail.vocabulary.rows.load_skeleton", lambda _: Second(config))
    with pytest.raises(ArchitectureError, match="other of Second has 96 rows"):
        token_rows(tmp_path)


def test_what_transformers_cannot_resize_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    monkeypatch.setattr(model, "get_input_embeddings", lambda: None)
    monkeypatch.setattr("optimum_grail.vocabulary.rows.load_skeleton", lambda _: model)
    with pytest.raises(ArchitectureError, match="does not resize the embedding of LlamaForCausalLM"):
        token_rows(tmp_path)


def test_quantized_models_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    model.config.quantization_config = {"quant_method": "torchao"}
    monkeypatch.setattr("optimum_grail.vocabulary.rows.load_skeleton", lambda _: model)
    with pytest.raises(ArchitectureError, match="quantize then"):
        token_rows(tmp_path)
