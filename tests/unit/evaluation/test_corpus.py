"""In corpus, out of corpus, or not known."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimum_grail.evaluation.corpus import IN, OUT, UNKNOWN, relation

FILES = (
    "wikitext-2/valid.parquet",
    "wikitext-2/test.parquet",
    "wikitext-103/test.parquet",
    "books/train-00000-of-00005.parquet",
    "books/test.parquet",
    "train/wiki.txt",
    "test/wiki.txt",
    "mine/code.txt",
    "mine/wiki.txt",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    return folder


@pytest.mark.parametrize(
    ("calibration", "evaluation", "expected"),
    [
        ("wikitext-2/valid.parquet", "wikitext-2/test.parquet", IN),
        ("books/train-00000-of-00005.parquet", "books/test.parquet", IN),
        ("train/wiki.txt", "test/wiki.txt", IN),
        ("mine/code.txt", "mine/code.txt", IN),
        ("mine", "mine/code.txt", IN),
        ("mine/code.txt", "mine", IN),
        ("wikitext-2/valid.parquet", "books/test.parquet", OUT),
        ("wikitext-2/valid.parquet", "wikitext-103/test.parquet", OUT),
        ("mine/code.txt", "mine/wiki.txt", UNKNOWN),
        ("mine/wiki.txt", "test/wiki.txt", UNKNOWN),
    ],
)
def test_files(root: Path, calibration: str, evaluation: str, expected: str) -> None:
    assert relation([str(root / calibration)], str(root / evaluation)) == expected


def test_options_do_not_make_another_corpus(root: Path) -> None:
    name = str(root / "wikitext-2/valid.parquet")
    assert relation([f"{name}:split=train[:10]"], f"{name}, train") == IN


@pytest.mark.parametrize(
    ("calibration", "evaluation", "expected"),
    [
        ("org/Text, en, train", "org/text, test", IN),
        ("org/text:split=train", "org/text, test", IN),
        ("org/text", "org/other", OUT),
        ("org/text", "/no/longer/there.txt", UNKNOWN),
        ("self, seed 42", "org/text", OUT),
        ("self:temperature=0.5", "/no/longer/there.txt", OUT),
        ("general", "general/law", IN),
        ("general/law", "general/medicine", OUT),
        ("general", "org/text", OUT),
        ("list of 4 in memory", "org/text", UNKNOWN),
        ("org/text", "Dataset in memory", UNKNOWN),
    ],
)
def test_other_sources(calibration: str, evaluation: str, expected: str) -> None:
    assert relation([calibration], evaluation) == expected


def test_of_several_sources_one_is_enough_and_all_must_be_others() -> None:
    assert relation(["org/a", "org/b"], "org/b") == IN
    assert relation(["org/a", "self, seed 1"], "org/c") == OUT
    assert relation(["org/a", "list of 4 in memory"], "org/c") == UNKNOWN


@pytest.mark.parametrize(("shared", "expected"), [(0.5, IN), (0.02, IN), (0.01, UNKNOWN)])
def test_shared_rows_tell_more_than_names(shared: float, expected: str) -> None:
    assert relation(["list of 4 in memory"], "Dataset in memory", shared) == expected
