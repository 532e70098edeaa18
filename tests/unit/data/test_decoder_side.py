"""Encoder-decoders on text: their decoder reads what their encoder reads, shifted as in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from optimum_grail.architectures import bart, t5
from optimum_grail.architectures._tiny import tiny
from optimum_grail.architectures.bart import tiny_whisper
from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.t5 import tiny_t5_encoder
from optimum_grail.data.decoder_side import is_encoder_decoder, with_decoder_side
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.sources import load_calibration
from optimum_grail.errors import DataError
from optimum_grail.models.resolve import resolve

WORDS = {"vocab_size": 328}
BUILDS: dict[str, Callable[[], nn.Module]] = {
    "bart": tiny("BartForConditionalGeneration", **{**bart.SIZES, **WORDS}),
    "t5": tiny("T5ForConditionalGeneration", **{**t5.SIZES, **WORDS}),
    "mbart": tiny("MBartForConditionalGeneration", **{**bart.SIZES, **WORDS}),
}


def recipient(model: nn.Module, tokenizer: Any = None) -> Recipient:
    return Recipient.of(model, resolve(model), tokenizer)


@pytest.mark.parametrize("name", BUILDS)
def test_rows_of_text_feed_both_sides(name: str, tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> None:
    model = BUILDS[name]()
    data = load_calibration(recipient(model, tokenizer), DataRequest(lines, num_samples=9, seqlen=16))
    for batch in data.batches:
        ids, said = batch.inputs["input_ids"], batch.inputs["decoder_input_ids"]
        mask, heard = batch.inputs.get("attention_mask"), batch.inputs.get("decoder_attention_mask")
        assert ids.shape == said.shape and mask is not None and heard is not None and torch.equal(mask, heard)
        if name != "mbart":  # which puts the last token first
            assert bool((said[:, 0] == model.config.decoder_start_token_id).all())
        assert torch.equal(said[:, 1:][mask[:, 1:].bool()], ids[:, :-1][mask[:, 1:].bool()])
        assert bool(torch.isfinite(model(**batch.inputs).logits).all())


def test_they_are_no_models_that_write_their_own_data() -> None:
    found = recipient(BUILDS["bart"]())
    assert not found.causal and found.main_input == "text"
    with pytest.raises(DataError, match="needs calibration data"):
        load_calibration(found, DataRequest(None, num_samples=4))
    assert recipient(tiny_llama()).causal


def test_others_are_left_as_they_are() -> None:
    sample = {"input_ids": torch.tensor([3, 4]), "attention_mask": torch.ones(2, dtype=torch.int64)}
    for build in (tiny_bert, tiny_llama, tiny_t5_encoder):
        model = build()
        assert not is_encoder_decoder(model)
        (found,) = with_decoder_side(model, [sample])
        assert found == sample and found is not sample
    assert is_encoder_decoder(tiny_whisper()) and recipient(tiny_whisper()).main_input == "tensors"


def test_a_shift_leaves_the_samples_alone() -> None:
    sample = {"input_ids": torch.tensor([5, 6, 7]), "attention_mask": torch.ones(3, dtype=torch.int64)}
    (found,) = with_decoder_side(BUILDS["t5"](), [sample])
    assert found["decoder_input_ids"].tolist() == [0, 5, 6] and sample["input_ids"].tolist() == [5, 6, 7]
    found["decoder_attention_mask"].zero_()
    assert bool(sample["attention_mask"].all())
