"""The corpus of general text that the package carries: its card tells the truth, and no evaluation text is in it."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pyarrow.parquet
import pytest

from optimum_grail.data.genres import GENRES
from optimum_grail.data.rows import read_rows
from optimum_grail.errors import DataError, UnknownNameError

LICENCES = {
    "Public domain",
    "CC0-1.0",
    "PDDL-1.0 AND CC0-1.0",
    "CC-BY-4.0",
    "CC-BY-SA-3.0",
    "MIT",
    "MIT OR Apache-2.0",
    "Apache-2.0",
    "BSD-3-Clause",
    "PSF-2.0",
}
"""Licences that let a package pass texts on."""

RUN = 8
STOCK = 10
"""Runs of eight words that a whole data set may share with the corpus: everybody writes "in the first half of the 19th
century". A copied sentence of twenty words makes more."""


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "optimum_grail" / "data" / "corpora"


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, str]]:
    return pyarrow.parquet.read_table(folder / "general.parquet").to_pylist()


@pytest.fixture(scope="module")
def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sources(repository: Path) -> dict[str, dict[str, Any]]:
    return tomllib.loads((repository / "tools" / "corpus" / "sources.toml").read_text(encoding="utf-8"))["source"]


def table(card: str, title: str) -> list[list[str]]:
    """Cells of the table under a headline, without its head."""
    lines = [line for line in card.partition(f"## {title}\n")[2].partition("\n## ")[0].splitlines() if "|" in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_file_is_the_one_that_the_card_describes(folder: Path, card: str) -> None:
    content = (folder / "general.parquet").read_bytes()
    assert f"general.parquet: sha256 {hashlib.sha256(content).hexdigest()}\n" in card
    assert len(content) <= 2_500_000


def test_the_corpus_goes_into_the_wheel(folder: Path, repository: Path) -> None:
    """hatchling takes every file of the package's folder but those that git ignores."""
    wheel = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    assert wheel["targets"]["wheel"]["packages"] == ["optimum_grail"]
    assert "exclude" not in wheel["targets"]["wheel"]
    for name in ("general.parquet", "README.md"):
        command = ["git", "check-ignore", "--quiet", str(folder / name)]
        assert subprocess.run(command, cwd=repository, check=False).returncode == 1


def test_the_card_counts_what_is_there(rows: list[dict[str, str]], card: str, sources: dict[str, Any]) -> None:
    characters: Counter[str] = Counter()
    for row in rows:
        characters[row["source"]] += len(row["text"])
        assert row["genre"] == sources[row["source"]]["genre"]
    told = {line[0]: int(line[6].replace(",", "")) for line in table(card, "Sources")}
    assert told == characters
    assert {line[0]: int(line[1]) for line in table(card, "Genres")} == Counter(row["genre"] for row in rows)


def test_every_source_may_be_passed_on_and_names_where_it_comes_from(card: str) -> None:
    archives = {line[0]: line[2] for line in table(card, "Archives")}
    lines = table(card, "Sources")
    assert {line[3] for line in lines} <= LICENCES
    assert all(credit and archive in archives for _, _, _, _, credit, archive, *_ in lines)
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in archives.values())


def test_no_genre_outweighs_the_others(rows: list[dict[str, str]]) -> None:
    sizes: Counter[str] = Counter()
    for row in rows:
        sizes[row["genre"]] += len(row["text"])
    share = {genre: size / sizes.total() for genre, size in sizes.items()}
    assert max(share.values()) < 0.3
    assert 0.15 < share["code"] < 0.25
    assert 0.07 < share["languages"] < 0.13


def test_documents_are_clean_and_differ(rows: list[dict[str, str]]) -> None:
    texts = [row["text"] for row in rows]
    assert len(set(texts)) == len(texts)
    assert all(2_000 <= len(text) <= 20_000 for text in texts)
    assert not any(re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]| \n|\n{5}", text) for text in texts)


def test_the_corpus_is_read_by_its_name(rows: list[dict[str, str]], tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "general").mkdir()
    monkeypatch.chdir(tmp_path)  # a folder of that name loses
    found = read_rows("general")
    assert (found.source, found.data.to_list()) == ("general", rows)
    assert {genre: len(read_rows(f"general/{genre}").data) for genre in GENRES} == Counter(row["genre"] for row in rows)
    with pytest.raises(DataError, match="no dataset files"):
        read_rows("./general")


def test_the_corpus_has_no_splits_and_no_other_genres() -> None:
    with pytest.raises(DataError, match="neither splits nor configurations"):
        read_rows("general", split="test")
    with pytest.raises(UnknownNameError, match="fiction"):
        read_rows("general/fictoin")


def words(text: str) -> list[str]:
    """Lower-case words; numbers do not count, since counting up is nobody's text."""
    return [word for word in re.findall(r"\w[\w'’]*", text.lower()) if not word.isdecimal()]


def runs(text: str) -> Iterator[str]:
    found = words(text)
    return (" ".join(found[index : index + RUN]) for index in range(len(found) - RUN + 1))


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def evaluation_texts(name: str, data_dir: Path) -> Iterator[str]:
    path = data_dir / name
    if not path.is_file():
        pytest.skip(f"{path} is missing.")
    if path.suffix == ".parquet":
        parquet = pyarrow.parquet.ParquetFile(path)
        columns = [field.name for field in parquet.schema_arrow if str(field.type) in ("string", "large_string")]
        yield from strings(parquet.read(columns).to_pydict())
    elif path.suffix == ".jsonl":
        for line in path.read_text(encoding="utf-8").splitlines():
            yield from strings(json.loads(line))
    else:
        yield path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def corpus_runs(rows: list[dict[str, str]]) -> frozenset[int]:
    return frozenset(hash(run) for row in rows for run in runs(row["text"]))


def shared(texts: Iterator[str], corpus_runs: frozenset[int]) -> set[str]:
    found = {run for text in texts for run in runs(text) if hash(run) in corpus_runs}
    return {run for run in found if len(set(run.split())) > 2}


@pytest.mark.parametrize(
    "name",
    [
        *(f"wikitext-2/{part}.parquet" for part in ("valid", "test")),
        *(f"classic-books/{part}.parquet" for part in ("valid", "test")),
        "tinystories-sample/sample.parquet",
        "tinyshakespeare/tinyshakespeare.txt",
        *(f"stsb/{part}.csv" for part in ("train", "dev")),
        *(f"emoji-captions/{part}.parquet" for part in ("train", "test")),
        *(
            f"lm-eval-choice/{task}.jsonl"
            for task in (
                "arc_challenge",
                "arc_easy",
                "boolq",
                "hellaswag",
                "lambada_openai",
                "openbookqa",
                "piqa",
                "winogrande",
            )
        ),
    ],
)
def test_no_evaluation_text_is_in_the_corpus(name: str, data_dir: Path, corpus_runs: frozenset[int]) -> None:
    assert len(shared(evaluation_texts(name, data_dir), corpus_runs)) < STOCK


def test_pythons_documentation_is_not_in_the_corpus(corpus_runs: frozenset[int]) -> None:
    """Benchmarks evaluate on it."""
    assert len(shared(iter(topics.values()), corpus_runs)) < STOCK


def test_a_copied_sentence_would_be_seen(corpus_runs: frozenset[int], rows: list[dict[str, str]]) -> None:
    copied = " ".join(rows[0]["text"].split()[20:45])
    assert len(shared(iter([f"Once upon a time: {copied}"]), corpus_runs)) > STOCK
