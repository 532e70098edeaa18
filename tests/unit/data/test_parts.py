"""Sources that share the samples: how many each gives, which batches come of it, and what the report is told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from optimum_grail.data.batches import digest
from optimum_grail.data.parts import check_sources, parts_of, shares
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.sources import load_calibration
from optimum_grail.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def files(tmp_path: Path, lines: list[str]) -> tuple[str, str]:
    """Two text files, in the order of their names."""
    paths = tmp_path / "a.txt", tmp_path / "b.txt"
    for path, half in zip(paths, (lines[:200], lines[200:]), strict=True):
        path.write_text("\n".join(half))
    return str(paths[0]), str(paths[1])


def load(model: Any, dataset: Any, tokenizer: Any, causal: bool = True, **options: Any) -> Any:
    recipient = Recipient(model, tokenizer, None, causal)
    return load_calibration(recipient, DataRequest(dataset, **{"num_samples": 40, "seqlen": 16, **options}))


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=12), st.integers(0, 300))
def test_shares_add_up_and_follow_the_weights(weights: list[float], total: int) -> None:
    counts = shares(weights, total)
    assert sum(counts) == total
    if total >= len(weights):
        assert min(counts) >= 1
    raised = sum(count == 1 for count in counts)
    for weight, count in zip(weights, counts, strict=True):
        assert abs(count - weight / sum(weights) * total) < 1 + raised or count == 1


def test_shares_of_equal_remainders_go_to_the_first() -> None:
    assert shares([1, 1, 1], 4) == [2, 1, 1]
    assert shares([2, 1], 8) == [5, 3]
    assert shares([1000, 1, 1], 10) == [8, 1, 1]
    assert shares([1, 1], 1) == [1, 0]


def test_every_source_gives_its_share_in_batches_of_its_own(llama, tokenizer, files) -> None:
    data = load(llama, {files[0]: 1, files[1]: 2, "self": 1}, tokenizer)
    assert [(rows.name, rows.weight, rows.samples, rows.tokens) for rows in data.sources] == [
        (files[1], 2, 20, 320),
        (files[0], 1, 10, 160),
        ("self", 1, 10, 160),
    ]
    assert data.source == f"{files[1]}:2 + {files[0]}:1 + self:1"
    assert (data.samples, data.tokens, data.seqlen) == (40, 640, 16)
    for number, rows in enumerate(data.sources):
        own = [batch for batch in data.batches if batch.source == number]
        sizes = Counter[str]()
        for batch in own:
            sizes[batch.split] += batch.size
        assert sizes == {"fit": rows.samples * 4 // 5, "held": rows.samples // 5}
        alone = load(llama, rows.name, tokenizer, num_samples=rows.samples)
        assert (alone.sha256, alone.fingerprints <= data.fingerprints) == (rows.sha256, True)


def test_the_first_quarter_holds_every_source_by_weight(llama, tokenizer, files) -> None:
    data = load(llama, {files[0]: 1, files[1]: 2, "self": 1}, tokenizer, num_samples=80)
    fit = [batch for batch in data.batches if batch.split == "fit"]
    seen = Counter[int]()
    for batch in fit[: len(fit) // 4]:
        seen[batch.source] += batch.size
    assert max(seen.values()) <= 3 * min(seen.values()) and set(seen) == {0, 1, 2}
    assert [batch.split for batch in data.batches] == sorted((b.split for b in data.batches), key="fit held".index)


def test_how_sources_are_listed_makes_no_difference(llama, tokenizer, files) -> None:
    one = load(llama, {files[0]: 1, files[1]: 2}, tokenizer)
    other = load(llama, {files[1]: 4, files[0]: 2}, tokenizer)
    assert one.sha256 == other.sha256
    assert [(a.source, a.split, digest([a.inputs])) for a in one.batches] == [
        (b.source, b.split, digest([b.inputs])) for b in other.batches
    ]


def test_one_source_with_options_is_read_by_them(llama, tokenizer, tmp_path, lines) -> None:
    for name, part in (("train", lines[:200]), ("test", lines[200:])):
        datasets.Dataset.from_dict({"other": ["x"] * 200, "words": part}).to_parquet(tmp_path / f"{name}.parquet")
    expected = load(llama, lines[200:], tokenizer, text_column=None)
    assert load(llama, f"{tmp_path}:split=test,text_column=words", tokenizer).sha256 == expected.sha256
    both = {f"{tmp_path}:split=test": 1, f"{tmp_path}:split=train": 1}
    data = load(llama, both, tokenizer, text_column="words", split="nowhere", num_samples=2)
    assert [rows.name for rows in data.sources] == list(both)
    with pytest.raises(DataError, match=r"Source '.*:split=no', 1 samples: .* has no split 'no'"):
        load(llama, {f"{tmp_path}:split=no": 1, "self": 1}, tokenizer, num_samples=2)


def test_a_source_that_is_too_short_is_named(llama, tokenizer, files, tmp_path) -> None:
    (tmp_path / "short.txt").write_text("a small cat")
    with pytest.raises(
        DataError, match=r"Source '.*short.txt', 20 samples: .*lower its weight, --num-samples or --seq"
    ):
        load(llama, {files[0]: 1, str(tmp_path / "short.txt"): 1}, tokenizer)
    with pytest.raises(DataError, match=r"num_samples=1 is fewer than the 2 sources .* Raise --num-samples to 2"):
        load(llama, {files[0]: 1, "self": 1}, tokenizer, num_samples=1)


def test_few_rows_of_a_source_are_halved_and_noted(llama, tokenizer, files) -> None:
    data = load(llama, {files[0]: 1, files[1]: 9}, tokenizer, num_samples=20)
    assert {(batch.source, batch.split) for batch in data.batches} == {(0, "fit"), (0, "held"), (1, "halves")}
    assert f"{files[0]}: 2 samples, fewer than 5: rows are held out by contiguous halves" in data.notes


def test_encoders_mix_files_but_write_nothing(bert, tokenizer, files) -> None:
    data = load(bert, {files[0]: 1, files[1]: 1}, tokenizer, causal=False, num_samples=10)
    assert [rows.samples for rows in data.sources] == [5, 5]
    with pytest.raises(DataError, match="'self' needs a causal language model"):
        load(bert, {files[0]: 1, "self": 1}, tokenizer, causal=False)


def test_image_folders_mix(vit, vit_processor, tmp_path) -> None:
    for folder, shade in (("dark", 10), ("light", 200)):
        (tmp_path / folder).mkdir()
        for number in range(6):
            Image.new("RGB", (20, 20), (shade + number,) * 3).save(tmp_path / folder / f"{number}.png")
    recipient = Recipient(vit, None, vit_processor, main_input="image")
    mixture = {str(tmp_path / "dark"): 1, str(tmp_path / "light"): 1}
    data = load_calibration(recipient, DataRequest(mixture, num_samples=10))
    assert [(rows.samples, rows.tokens) for rows in data.sources] == [(5, 0), (5, 0)]
    means = [batch.inputs["pixel_values"].mean() for batch in data.batches]
    assert len({(batch.source, bool(mean > 0)) for batch, mean in zip(data.batches, means, strict=True)}) == 2


def test_the_parts_of_one_data_set() -> None:
    (part,) = parts_of(DataRequest(["a", "b"]))
    assert (part.dataset, part.name, part.own) == (["a", "b"], "", False)
    assert parts_of(DataRequest("self"))[0].own and parts_of(DataRequest())[0].own


@pytest.mark.parametrize("dataset", ["./no/such.txt", {"./no/such.txt": 1, "self": 1}, "./no/such.txt:split=test"])
def test_paths_are_checked_early(dataset: Any) -> None:
    with pytest.raises(DataError, match=r"\./no/such\.txt.* does not exist"):
        check_sources(dataset)
    check_sources({"self": 1, "owner/name": 2})
    check_sources(["a text"])
