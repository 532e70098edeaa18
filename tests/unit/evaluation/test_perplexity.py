"""Perplexity against its definition, worked out window by window."""

from __future__ import annotations

import math
import re

import pytest
import torch
from datasets import Dataset

from optimum_grail.checkpoints.loading import load_model
from optimum_grail.errors import ConfigError, DataError
from optimum_grail.evaluation.metrics.perplexity import Perplexity
from optimum_grail.report.progress import RichProgress

TEXT = ["It was a bright cold day in April.", "", "and the clocks were striking thirteen. " * 4]


@pytest.fixture(scope="module")
def llama(folders):
    return load_model(folders["llama"], device="cpu")


def by_hand(model, ids: torch.Tensor, seqlen: int) -> float:
    losses = []
    for start in range(0, len(ids) - seqlen + 1, seqlen):
        window = ids[start : start + seqlen]
        with torch.no_grad():
            logs = model(input_ids=window[None]).logits[0].double().log_softmax(dim=-1)
        losses += [-float(logs[place - 1, window[place]]) for place in range(1, seqlen)]
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_it_is_the_definition(llama, tokenizer, batch_size) -> None:
    ids = torch.tensor(tokenizer("\n\n".join(TEXT), add_special_tokens=False)["input_ids"])
    result = Perplexity(seqlen=16, batch_size=batch_size)(llama, tokenizer, None, TEXT)
    assert result["perplexity"] == pytest.approx(by_hand(llama, ids, 16), rel=1e-5)
    assert result["loss"] == pytest.approx(math.log(result["perplexity"]))
    windows = len(ids) // 16
    assert (result["windows"], result["tokens"], result["predicted_tokens"]) == (windows, 16 * windows, 15 * windows)
    assert "16 tokens" in result["protocol"]


def test_limits_take_the_first_tokens_and_windows(llama, tokenizer) -> None:
    ids = torch.tensor(tokenizer("\n\n".join(TEXT), add_special_tokens=False)["input_ids"])
    for options in ({"max_tokens": 52}, {"num_samples": 5}):
        result = Perplexity(seqlen=10, **options)(llama, tokenizer, None, Dataset.from_dict({"text": TEXT}))
        assert result["tokens"] == 50
        assert result["perplexity"] == pytest.approx(by_hand(llama, ids[:50], 10), rel=1e-5)


def test_the_default_window_is_the_models_and_the_mode_is_kept(llama, tokenizer) -> None:
    llama.train().model.layers[0].eval()
    result = Perplexity()(llama, tokenizer, None, TEXT)
    assert result["tokens"] % 64 == 0 and "windows of 64" in result["protocol"]
    assert llama.training and llama.lm_head.training and not llama.model.layers[0].mlp.training
    llama.eval()


def test_token_windows_are_used_as_they_are(llama) -> None:
    ids = torch.randint(3, 259, (5, 12), generator=torch.Generator().manual_seed(0))
    result = Perplexity()(llama, None, None, [{"input_ids": row} for row in ids])
    assert result["perplexity"] == pytest.approx(by_hand(llama, ids.flatten(), 12), rel=1e-5)
    with pytest.raises(DataError, match="lengths from 3 to 4"):
        Perplexity()(llama, None, None, [{"input_ids": [3, 4, 5]}, {"input_ids": [3, 4, 5, 6]}])


def test_progress_goes_to_standard_error(llama, tokenizer, capsys) -> None:
    result = Perplexity(seqlen=16)(llama, tokenizer, None, TEXT, progress=RichProgress())
    shown = capsys.readouterr()
    done = result["windows"]
    assert shown.out == "" and re.search(rf"^perplexity: {done} of {done} in ", shown.err, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "rows", "message"),
    [
        ({"seqlen": 65}, TEXT, "above the 64 positions"),
        ({}, ["short"], r"gives 5 tokens, less than one window of seqlen=64"),
        ({}, Dataset.from_dict({"n": [1]}), "no text column"),
        ({"text_column": "x"}, TEXT, "no column 'x'"),
    ],
)
def test_unusable_text_is_refused(llama, tokenizer, options, rows, message) -> None:
    with pytest.raises(DataError, match=message):
        Perplexity(**options)(llama, tokenizer, None, rows)


def test_other_models_and_missing_tokenizers_are_refused(folders, llama) -> None:
    bert = load_model(folders["bert"], device="cpu")
    with pytest.raises(DataError, match="BertModel is none"):
        Perplexity()(bert, None, None, TEXT)
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        Perplexity()(llama, None, None, TEXT)
    with pytest.raises(ConfigError, match="max_tokens=0"):
        Perplexity(max_tokens=0)
