"""Text: lengths, columns, joined tokens, random windows, encoder rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_grail.data import text
from optimum_grail.data.batches import overlap
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.sources import load_calibration
from optimum_grail.errors import DataError


def load(model: Any, dataset: Any, tokenizer: Any, **options: Any) -> Any:
    recipient = Recipient(model, tokenizer, None, options.pop("causal", True))
    held_out = options.pop("held_out", True)
    request = DataRequest(dataset, **{"num_samples": 10, "seqlen": 16, **options})
    return load_calibration(recipient, request, held_out=held_out)


def all_ids(data: Any) -> torch.Tensor:
    return torch.cat([batch.inputs["input_ids"] for batch in data.batches])


def test_default_length_is_the_least_of_its_limits(llama, tokenizer, bert, clip) -> None:
    assert text.default_seqlen(llama.config, tokenizer) == 64
    assert text.default_seqlen(None, tokenizer) == 2048
    assert text.default_seqlen(clip.config, None) == 24
    tokenizer.model_max_length, before = 20, tokenizer.model_max_length
    try:
        assert text.default_seqlen(llama.config, tokenizer) == 20
        assert text.default_seqlen(llama.config, tokenizer, 64) == 64  # the tokenizer's limit binds no explicit choice
    finally:
        tokenizer.model_max_length = before
    with pytest.raises(DataError, match="seqlen=65 is above the 64 positions"):
        text.default_seqlen(llama.config, tokenizer, 65)
    with pytest.raises(DataError, match="seqlen=1 "):
        text.default_seqlen(llama.config, tokenizer, 1)


def test_the_text_column_is_named_known_or_the_first_of_strings() -> None:
    rows = Dataset.from_dict({"id": [1], "genre": ["x"], "sentence1": ["y"]})
    assert text.text_column(rows) == "sentence1"
    assert text.text_column(rows, "genre") == "genre"
    assert text.text_column(rows.remove_columns("sentence1")) == "genre"
    assert text.text_column(rows.add_column("text", ["z"])) == "text"
    with pytest.raises(DataError, match=r"no column 'nope'.*--text-column"):
        text.text_column(rows, "nope")
    with pytest.raises(DataError, match=r"'id' holds .*expected text"):
        text.text_column(rows, "id")
    with pytest.raises(DataError, match=r"no text column, only id \(int64\)"):
        text.text_column(rows.select_columns(["id"]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(alphabet="ab \n.é", max_size=60), max_size=40), st.integers(8, 90))
def test_pieces_are_the_joined_rows_cut_up(rows: list[str], size: int) -> None:
    original = text._PIECE
    text._PIECE = size
    try:
        pieces = list(text.text_pieces(rows))
    finally:
        text._PIECE = original
    assert "".join(pieces) == "\n\n".join(rows)
    assert all(len(piece) >= size for piece in pieces[:-1])


def test_tokens_of_pieces_are_those_of_the_whole(tokenizer, lines, monkeypatch) -> None:
    rows = Dataset.from_dict({"text": [f"{line} \n\n {line}\n" for line in lines]})
    whole = tokenizer("\n\n".join(rows["text"]), add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(text, "_PIECE", 300)
    running = text.joined_tokens(rows, "text", tokenizer)
    assert running.ids.tolist() == whole
    assert not running.partial
    assert text.first_tokens(rows, "text", tokenizer, 777).tolist() == whole[:777]


def test_a_large_corpus_is_drawn_from_in_pieces(tokenizer, lines, monkeypatch) -> None:
    rows = Dataset.from_dict({"text": lines})
    monkeypatch.setattr(text, "_PIECE", 100)
    whole = text.joined_tokens(rows, "text", tokenizer)
    part = text.joined_tokens(rows, "text", tokenizer, need=10, seed=1)
    assert part.partial
    assert 10 < len(part.ids) < len(whole.ids) // 2
    assert torch.equal(part.ids, text.joined_tokens(rows, "text", tokenizer, need=10, seed=1).ids)
    assert not torch.equal(part.ids, text.joined_tokens(rows, "text", tokenizer, need=10, seed=2).ids)


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(1, 20), st.integers(0, 40), st.integers(0, 2**31))
def test_windows_are_pieces_of_the_text_that_do_not_overlap(seqlen: int, count: int, more: int, seed: int) -> None:
    ids = torch.arange(seqlen * count + more)
    windows = text.random_windows(ids, num_samples=count, seqlen=seqlen, seed=seed, what="x")
    assert windows.shape == (count, seqlen)
    assert torch.equal(windows, windows[:, :1] + torch.arange(seqlen))
    assert len(windows.unique()) == windows.numel()
    assert torch.equal(windows, text.random_windows(ids, num_samples=count, seqlen=seqlen, seed=seed, what="x"))


def test_windows_begin_anywhere_in_the_text() -> None:
    ids = torch.arange(103)
    starts = {
        int(start)
        for seed in range(60)
        for start in text.random_windows(ids, num_samples=1, seqlen=10, seed=seed, what="x")[:, 0]
    }
    assert len(starts) > 20
    assert min(starts) < 20 and max(starts) > 80


def test_too_little_text_says_how_many_windows_there_are(llama, tokenizer) -> None:
    with pytest.raises(DataError, match=r"which is (\d+) windows of seqlen=16; expected 500.*--num-samples to \1"):
        load(llama, ["the cat sees the dog."] * 30, tokenizer, num_samples=500)


def test_causal_windows_are_deterministic_full_and_counted(llama, tokenizer, lines) -> None:
    data, again = load(llama, lines, tokenizer), load(llama, lines, tokenizer)
    ids = all_ids(data)
    assert ids.shape == (10, 16)
    assert {name for batch in data.batches for name in batch.inputs} == {"input_ids"}
    assert not set(ids.unique().tolist()) & set(tokenizer.all_special_ids)
    assert (data.samples, data.tokens, data.seqlen, data.kind) == (10, 160, 16, "text")
    assert data.sha256 == again.sha256
    assert torch.equal(ids, all_ids(again))
    assert data.sha256 != load(llama, lines, tokenizer, seed=1).sha256
    whole = tokenizer("\n\n".join(lines), add_special_tokens=False)["input_ids"]
    joined = ",".join(map(str, whole))
    assert all(",".join(map(str, row.tolist())) in joined for row in ids)


def test_the_global_random_state_is_left_alone(llama, tokenizer, lines) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load(llama, lines, tokenizer)
    assert torch.equal(torch.rand(3), expected)


def test_overlap_tells_the_same_text_from_another(llama, tokenizer, lines) -> None:
    options = {"seqlen": 64, "num_samples": 60}
    data = load(llama, lines, tokenizer, **options)
    assert overlap(data, load(llama, lines, tokenizer, seqlen=50, num_samples=80, seed=3).fingerprints) > 20
    assert overlap(data, load(llama, [line[::-1] for line in lines], tokenizer, **options).fingerprints) == 0


def test_encoder_rows_are_truncated_padded_and_masked(bert, tokenizer) -> None:
    rows = ["the cat", "the dog runs " * 20, "", "   ", None, "a river", "old", "small house", "green and old"]
    data = load(bert, Dataset.from_dict({"text": rows}), tokenizer, causal=False, seqlen=12)
    assert (data.samples, data.seqlen) == (6, 12)  # blank rows are no samples
    assert [batch.split for batch in data.batches] == ["fit", "held"]
    ids, mask = data.batches[0].inputs["input_ids"], data.batches[0].inputs["attention_mask"]
    assert ids.shape == (5, 12)
    assert (ids[mask == 0] == tokenizer.pad_token_id).all()
    assert (ids[mask == 1] != tokenizer.pad_token_id).all()
    assert mask.sum(dim=1).tolist()[1] == 12
    assert data.tokens == sum(int(batch.inputs["attention_mask"].sum()) for batch in data.batches)
    assert any("6 samples, fewer than the 10" in note for note in data.notes)


def test_a_draw_of_encoder_rows_is_seeded_and_without_repeats(bert, tokenizer, lines) -> None:
    first, again = (load(bert, lines, tokenizer, causal=False, num_samples=50) for _ in range(2))
    assert first.sha256 == again.sha256
    assert first.sha256 != load(bert, lines, tokenizer, causal=False, num_samples=50, seed=1).sha256
    assert (first.samples, len(first.fingerprints)) == (50, 50)
    assert first.notes == ()


def test_few_samples_are_halves_and_say_so(bert, tokenizer) -> None:
    data = load(bert, ["the cat", "a dog", "old"], tokenizer, causal=False)
    assert {batch.split for batch in data.batches} == {"halves"}
    assert any("halves" in note for note in data.notes)
    whole = load(bert, ["the cat", "a dog", "old"], tokenizer, causal=False, held_out=False)
    assert {batch.split for batch in whole.batches} == {"fit"}


def test_a_missing_tokenizer_names_the_model_and_the_file(llama, lines) -> None:
    with pytest.raises(DataError, match=r"LlamaForCausalLM.*tokenizer\.json"):
        load(llama, lines, None)


@pytest.mark.parametrize("option", [{"num_samples": 0}, {"batch_size": 0}, {"seqlen": 65}])
def test_impossible_numbers_are_refused(llama, tokenizer, lines, option) -> None:
    with pytest.raises(DataError):
        load(llama, lines, tokenizer, **option)


def test_blank_rows_only_are_refused(bert, tokenizer) -> None:
    with pytest.raises(DataError, match="blank rows only"):
        load(bert, ["", "  "], tokenizer, causal=False)
