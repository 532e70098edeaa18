"""Windows of the Gemma family begin with BOS, those of others do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig

from optimum_grail.data.opening import opened, opening_of
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.sources import load_calibration
from optimum_grail.evaluation.metrics.perplexity import Perplexity

TINY: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


@pytest.fixture(scope="module")
def gemma(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    return Gemma3ForCausalLM(Gemma3TextConfig(vocab_size=len(tokenizer), **TINY)).eval()


@pytest.fixture
def bos(tokenizer: Any) -> int:
    if tokenizer.bos_token_id is None:
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(1)
    return int(tokenizer.bos_token_id)


def test_only_the_family_is_opened(tokenizer: Any, gemma: Any, bos: int) -> None:
    assert opening_of(gemma.config, tokenizer) == bos
    assert opening_of(LlamaConfig(), tokenizer) is None
    assert opening_of(gemma.config, None) is None
    assert opening_of(None, tokenizer) is None


def test_an_opening_stands_before_every_window() -> None:
    windows = torch.arange(10, 30).view(4, 5)
    assert torch.equal(opened(windows, 7)[:, 1:], windows)
    assert opened(windows, 7)[:, 0].tolist() == [7] * 4
    assert opened(windows, 7).dtype == torch.int64
    assert torch.equal(opened(windows, None), windows)


def test_calibration_and_perplexity_of_gemma_begin_with_bos(
    gemma: Any, tokenizer: Any, bos: int, lines: list[str]
) -> None:
    recipient = Recipient(gemma, tokenizer, None, True, "text")
    data = load_calibration(recipient, DataRequest(lines, num_samples=4, seqlen=12))
    for batch in data.batches:
        assert batch.inputs["input_ids"].shape[1] == 12
        assert (batch.inputs["input_ids"][:, 0] == bos).all()
        assert not (batch.inputs["input_ids"][:, 1:] == bos).any()
    result = Perplexity(seqlen=12, num_samples=4)(gemma, tokenizer, None, lines)
    assert result["windows"] == 4
    assert result["predicted_tokens"] == 44
    assert "BOS before each" in str(result["protocol"])
