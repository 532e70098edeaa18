"""Keys of data sets: the same for the same rows, another for others, whatever they are called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image

from optimum_grail.data.content import content_key
from optimum_grail.data.request import DataRequest


def key(dataset: Any, **fields: Any) -> str:
    return content_key(DataRequest(dataset, **fields))


@pytest.mark.parametrize(
    "make",
    [
        lambda value: [f"text {value}", "b"],
        lambda value: ["joined", f"{value}"],
        lambda value: Dataset.from_dict({"text": ["a", str(value)]}),
        lambda value: DatasetDict({"train": Dataset.from_dict({"text": ["a", str(value)]})}),
        lambda value: [{"input_ids": torch.tensor([1, value])}],
        lambda value: [{"pixel_values": np.full((3, 2, 2), value, dtype=np.float32)}],
        lambda value: [(torch.ones(3), value)],
        lambda value: [{"text": "a", "label": value, "extra": None}],
        lambda value: [Image.new("RGB", (2, 2), (value,) * 3)],
        lambda value: [b"a" * value],
    ],
    ids=["texts", "items", "dataset", "splits", "tensors", "arrays", "pairs", "rows", "images", "bytes"],
)
def test_rows_decide(make: Any) -> None:
    assert key(make(5)) == key(make(5))
    assert key(make(5)) != key(make(6))


def test_where_items_end_counts() -> None:
    assert len({key(["ab", "c"]), key(["a", "bc"]), key(["abc"]), key(("ab", "c")), key([["ab"], "c"])}) == 5
    assert key([torch.ones(4)]) != key([torch.ones(2, 2)]) != key([torch.ones(4, dtype=torch.int32)])


def test_numbers_and_columns_decide() -> None:
    rows = ["a", "b"]
    fields: list[dict[str, Any]] = [{}, {"num_samples": 1}, {"seqlen": 8}, {"batch_size": 2}, {"seed": 1}]
    fields += [{name: "x"} for name in ("config_name", "split", "text_column", "image_column", "label_column")]
    assert len({key(rows, **item) for item in fields}) == len(fields)


def test_the_models_own_text_is_told_by_its_numbers_only() -> None:
    assert key(None) == key("self") == key("self", text_column="x", split="train")
    assert len({key("self"), key("self", seed=1), key("self", num_samples=1), key("self", seqlen=8)}) == 4


def test_everything_of_a_mixture_decides(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("some text")
    mixtures: list[Any] = [{str(path): 1, "self": 1}, {str(path): 2, "self": 1}, {str(path): 1}, {str(path): 1, "b": 1}]
    mixtures += [{f"{path}:split=test": 1, "self": 1}, {str(path): 1, "self:temperature=0.9": 1}, {"self:top_p=0.9": 1}]
    mixtures += [str(path), "self:starts=chat", "general", "general/code", {"general": 1, "general/code": 1}]
    assert len({key(mixture) for mixture in mixtures}) == len(mixtures)
    assert key({str(path): 1, "self": 2}) == key({"self": 2.0, str(path): 1})
    assert key(mixtures[0]) != key(mixtures[0], text_column="x")
    before = key(mixtures[0])
    path.write_text("more text of it")
    assert key(mixtures[0]) != before


@pytest.mark.parametrize("mixture", ["general", "general/code", {"self:starts=general": 1, "a": 1}])
def test_another_corpus_is_other_data(mixture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before, plain = key(mixture), key({"self": 1, "a": 1})
    monkeypatch.setattr("optimum_grail.data.content.corpus_digest", lambda: "another")
    assert key(mixture) != before and key({"self": 1, "a": 1}) == plain


def test_files_and_folders_count_by_size_and_time(tmp_path: Path) -> None:
    for path in (tmp_path / "a.txt", tmp_path / "folder" / "b.txt"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("some text")
        named = path if path.parent == tmp_path else path.parent
        before = key(str(named))
        assert key(str(named)) == before
        path.write_text("more text")
        os.utime(path, ns=(1, 1))
        changed = key(str(named))
        path.write_text("some more text")
        os.utime(path, ns=(1, 1))
        assert len({before, changed, key(str(named))}) == 3
    assert key("owner/name") != key("owner/other")


def test_what_can_be_read_once_counts_as_itself() -> None:
    one, other = iter(["a"]), iter(["a"])
    assert key(one) == key(one) != key(other)
