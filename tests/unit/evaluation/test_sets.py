"""One evaluation set or several, and how a word spells one."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from optimum_grail.config.source import Reading
from optimum_grail.errors import ConfigError, DataError
from optimum_grail.evaluation.sets import by_spelling, columns_of, named_sets, reading_of

ROWS = Dataset.from_list([{"text": "a"}])


@pytest.mark.parametrize(
    "single", ["a.txt", ["one text", "another"], ROWS, DatasetDict({"test": ROWS}), [{"text": "a"}]]
)
def test_what_was_one_set_is_one_set(single: object) -> None:
    ((name, data),) = named_sets(single)
    assert name == "" and data is single


def test_a_mapping_names_several() -> None:
    assert named_sets({"books": "b.txt", "mine": ROWS}) == (("books", "b.txt"), ("mine", ROWS))
    assert named_sets(None) == ()


def test_files_in_a_list_are_refused_instead_of_read_as_texts(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("x")
    for ambiguous in ([str(file), "text"], [file], (str(tmp_path), str(file)), [ROWS, ROWS]):
        with pytest.raises(DataError, match="in a mapping, as in eval_dataset="):
            named_sets(ambiguous)
    assert len(named_sets(["a.txt and b.txt", "no-such-file.txt"])) == 1


@pytest.mark.parametrize("wrong", [{}, {"": "a.txt"}, {1: "a.txt"}])
def test_names_are_checked(wrong: dict[object, str]) -> None:
    with pytest.raises(DataError, match="expected one name or more"):
        named_sets(wrong)


def test_words_of_a_flag() -> None:
    assert by_spelling(None) is None and by_spelling([]) is None
    assert by_spelling(["a.txt"]) == "a.txt"
    assert by_spelling(["a.txt", "b:split=test"]) == {"a.txt": "a.txt", "b:split=test": "b:split=test"}
    with pytest.raises(DataError, match=r"'a\.txt' is named twice"):
        by_spelling(["a.txt", "b.txt", "a.txt"])


def test_options_of_a_set(tmp_path: Path) -> None:
    name, reading = reading_of("org/text:split=test,text_column=body")
    assert (name, reading) == ("org/text", Reading(split="test", text_column="body"))
    assert columns_of(reading) == {"text_column": "body"}
    assert reading_of("org/text") == ("org/text", Reading()) and reading_of(ROWS) == (ROWS, Reading())
    odd = tmp_path / "a:split=b"
    odd.write_text("x")
    assert reading_of(str(odd)) == (str(odd), Reading())


@pytest.mark.parametrize(
    ("word", "message"),
    [("a/b:2", "weights belong"), ("a/b:weight=1", "weights belong"), ("a/b:colum=x", "no option 'colum'")],
)
def test_options_that_a_set_has_not(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reading_of(word)
