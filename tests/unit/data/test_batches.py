"""Batches: splits, padding, hashes and fingerprints."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optimum_grail.data.batches import (
    MOST_SUBSETS,
    Batch,
    CalibrationData,
    collate,
    digest,
    fingerprint_text,
    fingerprint_tokens,
    interleave,
    make_batches,
    overlap,
    splits_of,
    subset_of,
)
from optimum_grail.errors import DataError


def tokens(*lengths: int) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": torch.arange(1, length + 1) + 100 * index} for index, length in enumerate(lengths)]


@given(st.integers(5, 60), st.integers(1, 9))
def test_every_fifth_sample_is_held_out_and_no_batch_mixes(count: int, size: int) -> None:
    batches = make_batches([{"x": torch.tensor([index])} for index in range(count)], batch_size=size)
    by_split: dict[str, list[int]] = {"fit": [], "held": [], "halves": []}
    for batch in batches:
        by_split[batch.split] += batch.inputs["x"].flatten().tolist()
        assert len(batch.inputs["x"]) <= size
    assert by_split["held"] == [index for index in range(count) if index % 5 == 4]
    assert by_split["fit"] == [index for index in range(count) if index % 5 != 4]
    assert by_split["halves"] == []


def test_below_five_samples_everything_is_halves() -> None:
    assert splits_of(4, True) == ["halves"] * 4
    assert splits_of(4, False) == ["fit"] * 4
    assert splits_of(7, False) == ["fit"] * 7


def test_padding_is_on_the_right_and_masked() -> None:
    (batch,) = make_batches(tokens(3, 5), batch_size=8, held_out=False, pad_id=9)
    assert batch.inputs["input_ids"][0].tolist() == [1, 2, 3, 9, 9]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_a_given_mask_is_kept_and_padded() -> None:
    rows = tokens(2, 4)
    rows = [{**row, "attention_mask": torch.tensor([0] + [1] * (len(row["input_ids"]) - 1))} for row in rows]
    (batch,) = make_batches(rows, batch_size=2, held_out=False)
    assert batch.inputs["attention_mask"].tolist() == [[0, 1, 0, 0], [0, 1, 1, 1]]


def test_full_windows_need_no_mask() -> None:
    (batch,) = make_batches(tokens(4, 4), batch_size=2, held_out=False)
    assert set(batch.inputs) == {"input_ids"}


def test_batches_of_equal_length_have_a_mask_too_where_others_are_padded() -> None:
    batches = make_batches(tokens(3, 3, 5), batch_size=2, held_out=False)
    assert all("attention_mask" in batch.inputs for batch in batches)


def test_different_inputs_and_unpaddable_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="sample 1 has the inputs"):
        collate([{"a": torch.ones(1)}, {"b": torch.ones(1)}])
    with pytest.raises(DataError, match="different shapes"):
        collate([{"pixel_values": torch.ones(3, 4, 4)}, {"pixel_values": torch.ones(3, 5, 4)}])


def test_the_digest_sees_values_shapes_and_order() -> None:
    first = tokens(3, 4)
    assert digest(first) == digest(tokens(3, 4))
    assert digest(first) != digest(first[::-1])
    assert digest([{"x": torch.zeros(2, 3)}]) != digest([{"x": torch.zeros(3, 2)}])
    assert digest([{"x": torch.zeros(2)}]) != digest([{"x": torch.zeros(2).half()}])


@given(st.integers(0, 200))
def test_token_fingerprints_do_not_depend_on_where_windows_start(offset: int) -> None:
    ids = torch.randint(0, 1000, (4000,), generator=torch.Generator().manual_seed(0))
    whole = fingerprint_tokens(ids)
    windows = ids[offset : offset + 3072].view(6, 512)
    assert len(fingerprint_tokens(windows)) > 30
    assert fingerprint_tokens(windows) <= whole


def test_other_text_shares_no_fingerprint() -> None:
    ids = torch.randint(0, 1000, (2, 4000), generator=torch.Generator().manual_seed(1))
    assert not fingerprint_tokens(ids[0]) & fingerprint_tokens(ids[1])
    assert fingerprint_tokens(ids[0, :31]) == frozenset()


def test_blank_lines_and_rulers_are_no_fingerprint() -> None:
    assert fingerprint_tokens(torch.arange(8).repeat(500)) == frozenset()


def test_overlap_counts_what_is_shared() -> None:
    marks = frozenset({fingerprint_text("a  b"), fingerprint_text("c")})
    batch = Batch({"x": torch.ones(1, 1)}, "fit")
    data = CalibrationData((batch,), "here", "0", 1, 1, 1, "text", marks)
    assert overlap(data, [fingerprint_text(" a b "), fingerprint_text("d")]) == 1
    assert overlap(data, []) == 0


def test_a_batch_knows_its_size() -> None:
    first, last = make_batches(tokens(3, 3, 3, 3), batch_size=3)
    assert (first.size, last.size, first.head().size) == (3, 1, 1)


def test_sources_are_parts_where_there_are_several() -> None:
    inputs = {"input_ids": torch.ones(1, 2, dtype=torch.int64)}
    assert [subset_of(Batch(inputs, split), False) for split in ("fit", "held", "halves")] == [0, 1, None]
    found = [subset_of(Batch(inputs, "held", source=source), True) for source in range(5)]
    assert found[:MOST_SUBSETS] == list(range(MOST_SUBSETS)) and set(found) == set(range(MOST_SUBSETS))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(1, 7))
def test_sources_are_spread_evenly_and_what_is_held_comes_last(counts: list[int], size: int) -> None:
    groups = [make_batches(tokens(*[3] * n), batch_size=size, source=i) for i, n in enumerate(counts)]
    found = interleave(groups)
    assert [batch.split == "held" for batch in found] == sorted(batch.split == "held" for batch in found)
    for number, group in enumerate(groups):
        assert [batch for batch in found if batch.source == number] == list(group)
    for held in (False, True):
        mine = [batch.source for batch in found if (batch.split == "held") == held]
        for number in set(mine):
            for length in range(len(mine)):
                due = length * mine.count(number) / len(mine)
                assert abs(mine[:length].count(number) - due) <= len(counts)
