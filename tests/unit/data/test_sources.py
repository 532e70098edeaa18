"""Every form of data a user may name, and the files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from torch.utils.data import DataLoader

from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.data.files import split_of
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.rows import read_rows
from optimum_grail.data.sources import load_calibration
from optimum_grail.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder: Path, name: str, lines: list[str]) -> Path:
    path = folder / name
    rows = Dataset.from_dict({"text": lines, "number": list(range(len(lines)))})
    if path.suffix == ".txt":
        path.write_text("\n".join(lines), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps([dict(row) for row in rows]), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    elif path.suffix == ".tsv":
        rows.to_csv(path, sep="\t", index=False)
    else:
        getattr(rows, f"to_{path.suffix[1:]}")(path)
    return path


def load(model: Any, dataset: Any, tokenizer: Any, **options: Any) -> Any:
    recipient = Recipient(model, tokenizer, None, options.pop("causal", True), options.pop("main_input", "text"))
    return load_calibration(recipient, DataRequest(dataset, **{"num_samples": 6, "seqlen": 16, **options}))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet"])
def test_files_give_the_same_windows_as_the_list(llama, tokenizer, lines, tmp_path, name) -> None:
    path = write(tmp_path, name, lines)
    data = load(llama, path, tokenizer)
    assert data.sha256 == load(llama, lines, tokenizer).sha256
    assert data.source == str(path)


def test_a_text_file_is_running_text_for_causal_models_and_lines_for_encoders(
    llama, tokenizer, lines, tmp_path
) -> None:
    path = write(tmp_path, "a.txt", lines)
    assert load(llama, str(path), tokenizer).sha256 == load(llama, ["\n".join(lines)], tokenizer).sha256
    assert read_rows(path).data["text"][:] == lines


def test_folders_have_splits_and_train_is_the_default(lines, tmp_path) -> None:
    for number, name in enumerate(["train", "valid", "test"]):
        write(tmp_path, f"{name}.parquet", lines[number * 10 : number * 10 + 5])
    assert read_rows(tmp_path).data["text"][0] == lines[0]
    assert read_rows(tmp_path, split="valid").data["text"][0] == lines[10]
    assert read_rows(tmp_path, split="train[:2]").data["text"][:] == lines[:2]
    assert read_rows(tmp_path, prefer=("test", "train")).data["text"][0] == lines[20]
    with pytest.raises(DataError, match=r"no split 'nope', only \['test', 'train', 'validation'\]"):
        read_rows(tmp_path, split="nope")


def test_names_above_the_folder_do_not_make_splits(lines, tmp_path) -> None:
    folder = tmp_path / "test" / "validation" / "data"
    (folder / "train").mkdir(parents=True)
    (folder / "test").mkdir()
    write(folder / "train", "a.jsonl", lines[:3])
    write(folder / "test", "b.jsonl", lines[3:5])
    write(folder, "contest.txt", ["a file of another kind"])
    assert read_rows(folder).data["text"][:] == lines[:3]
    assert read_rows(folder, split="test").data["text"][:] == lines[3:5]


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("data/dev.csv", "validation"),
        ("eval/part1.json", "test"),
        ("contest.txt", None),
        ("trainer/latest.txt", None),
    ],
)
def test_splits_are_told_from_whole_words(path, split) -> None:
    assert split_of(Path(path)) == split


def test_a_readme_that_declares_configurations_is_followed(lines, tmp_path) -> None:
    write(tmp_path, "one.jsonl", lines[:2])
    write(tmp_path, "two.jsonl", lines[2:5])
    header = (
        "---\nconfigs:\n- config_name: b\n  data_files: two.jsonl\n- config_name: a\n  data_files: one.jsonl\n---\n"
    )
    (tmp_path / "README.md").write_text(header, encoding="utf-8")
    assert read_rows(tmp_path, config_name="b").data["text"][:] == lines[2:5]
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path)


def test_a_folder_of_texts_is_one_document_per_file(lines, tmp_path) -> None:
    for number in range(3):
        write(tmp_path, f"book{number}.txt", lines[number * 5 : number * 5 + 5])
    assert sorted(read_rows(tmp_path, documents=True).data["text"]) == sorted(
        "\n".join(lines[n : n + 5]) for n in (0, 5, 10)
    )
    assert len(read_rows(tmp_path).data) == 15


def test_a_folder_saved_by_datasets_is_read(lines, tmp_path) -> None:
    Dataset.from_dict({"text": lines}).save_to_disk(tmp_path / "one")
    DatasetDict({"only": Dataset.from_dict({"text": lines[:3]})}).save_to_disk(tmp_path / "dict")
    assert len(read_rows(tmp_path / "one").data) == len(lines)
    assert len(read_rows(tmp_path / "dict").data) == 3  # a lone split needs no name


def test_datasets_objects(llama, tokenizer, lines) -> None:
    rows = Dataset.from_dict({"text": lines})
    expected = load(llama, lines, tokenizer).sha256
    assert load(llama, rows, tokenizer).sha256 == expected
    assert load(llama, DatasetDict({"train": rows, "x": rows.select([0])}), tokenizer).sha256 == expected
    assert load(llama, rows.to_iterable_dataset(), tokenizer).sha256 == expected
    assert load(llama, [{"text": line} for line in lines], tokenizer).sha256 == expected
    with pytest.raises(DataError, match=r"splits \['x', 'y'\].*--split"):
        load(llama, DatasetDict({"x": rows, "y": rows}), tokenizer)


def test_tokenized_dicts_are_taken_as_they_are_and_padded(llama, tokenizer) -> None:
    rows = [{"input_ids": [5] * length, "labels": [1] * length, "other": "x"} for length in (3, 6, 4)]
    data = load(llama, rows, tokenizer)
    (batch,) = data.batches
    assert set(batch.inputs) == {"input_ids", "attention_mask"}
    assert batch.inputs["input_ids"][0].tolist() == [5, 5, 5, 2, 2, 2]
    assert batch.inputs["attention_mask"].sum(dim=1).tolist() == [3, 6, 4]
    assert (data.samples, data.tokens) == (3, 13)
    columns = Dataset.from_list([{"input_ids": row["input_ids"]} for row in rows])
    assert load(llama, columns, None).batches[0].inputs["input_ids"][0].tolist() == [5, 5, 5, 0, 0, 0]
    with pytest.raises(DataError, match="has 65 tokens, above the 64 positions"):
        load(llama, [{"input_ids": torch.ones(65, dtype=torch.long)}], tokenizer)


def test_loaders_of_batches_become_samples(llama, vit) -> None:
    rows = [{"input_ids": torch.full((8,), index)} for index in range(7)]
    data = load(llama, DataLoader(rows, batch_size=3), None)
    assert data.samples == 6
    assert torch.cat([batch.inputs["input_ids"][:, 0] for batch in data.batches]).tolist() == [0, 1, 2, 3, 5, 4]
    pairs = [(torch.randn(3, 16, 16), index) for index in range(7)]
    data = load(vit, DataLoader(pairs, batch_size=2), None, causal=False, main_input="image")
    assert data.batches[0].inputs["pixel_values"].shape == (5, 3, 16, 16)
    assert (data.tokens, data.seqlen) == (0, None)


def test_the_inputs_of_an_own_module_are_named_by_its_forward() -> None:
    class Own(torch.nn.Module):
        def forward(self, signal: torch.Tensor) -> torch.Tensor:
            return signal

    options = {"causal": False, "main_input": "image"}
    for row in (torch.ones(3, 4, 4), {"signal": np.ones((3, 4, 4), dtype=np.float32)}, torch.ones(2, 3, 4, 4)):
        data = load(Own(), [row] * 6, None, **options)
        assert data.batches[0].inputs["signal"].shape == (5, 3, 4, 4)
    with pytest.raises(DataError, match=r"\['wrong'\], none of which the model takes: \['signal'\]"):
        load(Own(), [{"wrong": torch.ones(3, 4, 4)}], None, **options)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("/no/such/file.txt", "does not exist"),
        ("missing.parquet", "does not exist"),
        ("some/hub-id", "'some/hub-id' is neither a local path nor a dataset that the Hub gives"),
        ("generl", r"\. Did you mean 'general'\? Check"),
        ("general-code", r"\. Did you mean 'general/code'\?"),
        ([], "empty"),
        (7, "A int is not a dataset"),
        ({"text": ["a"]}, "A dict is not a dataset"),
        ([1, 2, 3], r"no text column, only text \(int64\)"),
        ([object()], "expected strings"),
        (iter([]), "yields no samples"),
        (iter(["a"]), "item 0 is a str"),
    ],
)
def test_what_is_no_dataset_says_why(llama, tokenizer, dataset, message) -> None:
    with pytest.raises(DataError, match=message):
        load(llama, dataset, tokenizer)


def test_unreadable_files_and_folders_say_why(tmp_path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    (tmp_path / "empty").mkdir()
    for path, message in (
        ("a.bin", "not a dataset file"),
        ("broken.parquet", "cannot be read"),
        ("empty", "holds no dataset files"),
    ):
        with pytest.raises(DataError, match=message):
            read_rows(tmp_path / path)


def test_an_empty_table_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="is empty"):
        read_rows(Dataset.from_dict({"text": []}))


def test_self_is_refused_without_a_causal_model(bert, tokenizer) -> None:
    with pytest.raises(DataError, match="--dataset"):
        load(bert, "self", tokenizer, causal=False)


def test_processors_of_a_folder(llama, tokenizer, vit_processor, tmp_path) -> None:
    llama.config.save_pretrained(tmp_path)
    assert load_processors(tmp_path) == (None, None)
    tokenizer.save_pretrained(tmp_path)
    vit_processor.save_pretrained(tmp_path)
    found, processor = load_processors(tmp_path)
    assert found("the cat")["input_ids"] == tokenizer("the cat")["input_ids"]
    assert type(processor).__name__ == "ViTImageProcessorPil"
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"tokenizer\.json in .* cannot be read"):
        load_processors(tmp_path)
