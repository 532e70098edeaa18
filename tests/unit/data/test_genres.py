"""The general corpus by genre, and mixtures that hold it."""

from __future__ import annotations

from typing import Any

import pytest

from optimum_grail.config.config import GrailConfig
from optimum_grail.data.genres import GENRES, documents, genres_of, read_genre
from optimum_grail.data.parts import check_sources
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.sources import load_calibration
from optimum_grail.errors import ConfigError, DataError, UnknownNameError


def load(model: Any, dataset: Any, tokenizer: Any, **options: Any) -> Any:
    recipient = Recipient(model, tokenizer, options.pop("processor", None), True, options.pop("main_input", "text"))
    return load_calibration(recipient, DataRequest(dataset, **{"num_samples": 24, "seqlen": 16, **options}))


def test_the_genres_are_those_of_the_corpus() -> None:
    counts = {genre: len(read_genre(f"general/{genre}")) for genre in GENRES}
    assert min(counts.values()) > 10 and sum(counts.values()) == len(documents())
    shares = genres_of("general")
    assert list(shares) == [f"general/{genre}" for genre in GENRES] and sum(shares.values()) == pytest.approx(1)
    assert genres_of("general/code") == {"general/code": 1.0}


def test_general_is_a_mixture_of_its_genres(llama, tokenizer) -> None:
    data = load(llama, "general", tokenizer)
    assert [rows.name for rows in data.sources] == list(genres_of("general"))
    assert sum(rows.weight for rows in data.sources) == pytest.approx(1) and data.source == "general"
    assert {batch.source for batch in data.batches} == set(range(len(GENRES)))
    both = load(llama, {"general": 2, "self": 1}, tokenizer)
    assert sum(rows.samples for rows in both.sources[:-1]) == 16 and both.sources[-1].samples == 8
    assert load(llama, "general/code", tokenizer).sources[0].samples == 24


def test_what_is_refused(llama, vit, tokenizer, vit_processor) -> None:
    with pytest.raises(DataError, match=r"num_samples=4 is fewer than the \d+ sources in general"):
        load(llama, "general", tokenizer, num_samples=4)
    with pytest.raises(UnknownNameError, match=r"genre of the general corpus 'fictoin'. Did you mean 'fiction'"):
        check_sources("general/fictoin")
    with pytest.raises(ConfigError, match="'general/code' is a part of 'general', which is there too"):
        check_sources({"general": 1, "general/code": 1})
    with pytest.raises(DataError, match=r"The general corpus holds text, and .* needs a data set of images"):
        load(vit, "general", None, processor=vit_processor, main_input="image")
    with pytest.raises(ConfigError, match="look like sources"):
        GrailConfig(dataset=["general/code", "corpus.txt"])


def test_rows_can_begin_as_documents_do(llama, tokenizer) -> None:
    data = load(llama, "self:starts=general", tokenizer, num_samples=6, seqlen=40)
    begins = {tuple(tokenizer(text[:100])["input_ids"][:8]) for text in documents()}
    rows = [row.tolist() for batch in data.batches for row in batch.inputs["input_ids"]]
    assert len(rows) == 6 and all(row[0] == tokenizer.bos_token_id and tuple(row[1:9]) in begins for row in rows)
