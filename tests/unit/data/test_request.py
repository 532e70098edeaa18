"""What a model is calibrated on where nothing was named, and how long its samples are."""

from __future__ import annotations

import pytest

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.data.genres import GENRES
from optimum_grail.data.request import DEFAULT_TEXT, WINDOW, DataRequest, Recipient

TOKENIZER = object()


def writer(tokenizer: object | None = TOKENIZER) -> Recipient:
    return Recipient(tiny_llama(), tokenizer, causal=True)  # type: ignore[arg-type]


def test_a_causal_language_model_reads_the_general_corpus_and_writes() -> None:
    request = DataRequest(num_samples=len(GENRES) + 1).filled(writer())
    assert request.dataset == DEFAULT_TEXT and request.mixture is not None and not request.own


@pytest.mark.parametrize(
    ("request_", "recipient"),
    [
        (DataRequest(num_samples=len(GENRES)), writer()),
        (DataRequest(), writer(None)),
        (DataRequest(), Recipient(tiny_bert(), TOKENIZER)),  # type: ignore[arg-type]
        (DataRequest(dataset="corpus.txt"), writer()),
        (DataRequest(dataset="self"), writer()),
    ],
    ids=["fewer samples than genres", "no tokenizer", "no causal model", "named data", "its own text"],
)
def test_nothing_else_is_filled(request_: DataRequest, recipient: Recipient) -> None:
    assert request_.filled(recipient) is request_


def test_samples_are_windows_of_512_tokens_unless_a_length_is_asked_for() -> None:
    recipient = writer(None)
    recipient.config.max_position_embeddings = 4096  # type: ignore[union-attr]
    assert recipient.length(None) == WINDOW == 512 and recipient.length(2048) == 2048
    recipient.config.max_position_embeddings = 64  # type: ignore[union-attr]
    assert recipient.length(None) == 64
