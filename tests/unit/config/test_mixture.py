"""Several sources: words, mappings and back; what is one data set, and what is refused as ambiguous."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from optimum_grail.config.config import GrailConfig
from optimum_grail.config.mixture import Mixture, mixture_of
from optimum_grail.config.recipe import read_recipe
from optimum_grail.config.source import Source
from optimum_grail.errors import ConfigError

WORDS = ("self:starts=chat", "self", "a.txt:split=train", "a.txt:split=test,weight=3", "general:2", "b:1:weight=2")


def test_words_become_a_mapping_and_come_back_in_one_order() -> None:
    mixture = Mixture.of_words(WORDS)
    assert Mixture.of_words(reversed(WORDS)) == mixture
    mapping = mixture.to_mapping()
    assert mapping == {
        "a.txt:split=test": 3,
        "b:1": {"weight": 2},
        "general": 2,
        "a.txt:split=train": 1,
        "self": 1,
        "self:starts=chat": 1,
    }
    assert Mixture.of_mapping(json.loads(json.dumps(mapping, sort_keys=True))) == mixture
    assert mixture.spelled().startswith("a.txt:weight=3,split=test + b:1:weight=2 + general:2 + ")


def test_values_of_a_mapping_are_weights_or_options() -> None:
    found = Mixture.of_mapping({"a.txt": {"weight": 2, "split": "x,y=z"}, "self": 0.5})
    assert [source.weight for source in found.sources] == [2, 0.5]
    assert Mixture.of_mapping(found.to_mapping()) == found


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "no sources"),
        ({"a.txt:2": 1}, r"holds a weight. Give it as the value, {'a.txt': 2}"),
        ({"a.txt:weight=2": 1}, "holds a weight"),
        ({"a.txt": "much"}, "expected a number"),
        ({"a.txt": None}, "expected a number"),
        ({"a.txt": True}, "expected a number"),
        ({"a.txt": {"wieght": 2}}, "Did you mean 'weight'"),
        ({"a.txt": 1, " a.txt": 2}, "is there 2 times"),
        (["general:2", "self:1"], r"Spell a mixture {'general': 2, 'self': 1}"),
        (["corpus.txt", "self"], "look like sources"),
        ("self:temprature=1", "Did you mean 'temperature'"),
        ("general:", None),
        (["He came at 10:30", "self"], None),
        (["a.png", "b.png"], None),
        ([], None),
    ],
)
def test_what_is_refused_and_what_is_one_data_set(value: Any, message: str | None) -> None:
    if message is None:
        assert mixture_of(value) is None
        assert GrailConfig(dataset=value).dataset == value
        return
    with pytest.raises(ConfigError, match=message):
        GrailConfig(dataset=value)


def test_two_that_are_the_same_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'a.txt' is there 2 times. Name it once, with a weight"):
        Mixture.of_words(["a.txt:2", "self", "a.txt"])


def test_single_words_stay_what_they_are() -> None:
    for word in ("self", "corpus.txt", "owner/name", "C:\\a.txt"):
        assert mixture_of(word) is None
        assert GrailConfig(dataset=word).dataset == word
    assert mixture_of("self:top_p=0.9") is not None
    assert GrailConfig(dataset="self:top_p=0.9").to_dict()["dataset"] == "self:top_p=0.9"


def test_a_file_is_a_file_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a:2", "self:1"):
        Path(name).write_text("text")
        assert mixture_of(name) is None
    assert Mixture.of_words(["a:2", "b"]).sources == (Source("a:2"), Source("b"))


def test_a_dataset_dict_is_data() -> None:
    splits = DatasetDict({"train": Dataset.from_dict({"text": ["a"]})})
    config = GrailConfig(dataset=splits)
    assert mixture_of(splits) is None and config.dataset is splits
    assert config.to_dict()["dataset"].startswith("DatasetDict of 1 rows")


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe.json"])
def test_recipes_hold_mixtures(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(json.dumps({"dataset": {"self:starts=chat": 1, "corpus.txt": {"split": "test", "weight": 2}}}))
    config = GrailConfig.from_dict(read_recipe(path))
    assert config.dataset == {"corpus.txt:split=test": 2, "self:starts=chat": 1}
    again = GrailConfig.from_dict(json.loads(config.to_json_string()))
    assert again.to_dict() == config.to_dict()
    path.write_text(json.dumps({"dataset": ["corpus.txt:2", "self:1"]}))
    with pytest.raises(ConfigError, match="Spell a mixture"):
        GrailConfig.from_file(path)
