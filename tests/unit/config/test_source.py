"""One source: words to values and back, colons that belong to names, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimum_grail.config.source import Fixed, Reading, Source, Writing, parse_source, spell_source
from optimum_grail.errors import ConfigError


@pytest.mark.parametrize(
    ("word", "source"),
    [
        ("corpus.txt", Source("corpus.txt")),
        ("corpus.txt:2", Source("corpus.txt", 2.0)),
        ("corpus.txt: 0.5 ", Source("corpus.txt", 0.5)),
        ("owner/name:1e1", Source("owner/name", 10.0)),
        ("general:2", Source("general", 2.0, Fixed())),
        ("general/code:1", Source("general/code", 1.0, Fixed())),
        ("self:temperature=0.9,starts=chat", Source("self", 1.0, Writing(temperature=0.9, starts="chat"))),
        ("a.csv:split=train[:10],weight=3,text_column=b", Source("a.csv", 3.0, Reading(None, "train[:10]", "b"))),
        ("C:\\texts\\a.txt", Source("C:\\texts\\a.txt")),
        ("C:\\texts\\a.txt:2", Source("C:\\texts\\a.txt", 2.0)),
        ("hf://datasets/owner/name", Source("hf://datasets/owner/name")),
        ("hf://datasets/owner/name:split=test", Source("hf://datasets/owner/name", 1.0, Reading(split="test"))),
        ("notes:2:weight=1", Source("notes:2")),
        ("a.csv:text_column=a, b,weight=2", Source("a.csv", 2.0, Reading(text_column="a, b"))),
    ],
)
def test_words(word: str, source: Source) -> None:
    assert parse_source(word) == source


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("a.txt:0", "weight of the source 'a.txt' is 0.0; expected a positive number"),
        ("a.txt:-1", "expected a positive number"),
        ("a.txt:weight=inf", "expected a positive number"),
        ("a.txt:weight=much", "weight of the source 'a.txt' is 'much'; expected a number"),
        ("a.txt:spilt=test", "Did you mean 'split'"),
        ("a.txt:temperature=1", "no option 'temperature'. It has: weight, config_name"),
        ("self:split=test", "no option 'split'. It has: weight, temperature"),
        ("general:split=test", "no option 'split'. It has: weight"),
        ("self:start=chat", "Did you mean 'starts'"),
        ("self:starts=chats", "expected random or frequent or general or chat"),
        ("self:temperature=0", "expected 0.01 to 10"),
        ("self:temperature=nan", "expected 0.01 to 10"),
        ("self:top_p=1.5", r"expected a number in \(0, 1\]"),
        ("a.txt:split=a,split=b", "each key once"),
        ("a.txt:split=", "with a value"),
        (":2", "expected a path"),
        ("", "expected a path"),
    ],
)
def test_what_is_refused(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_source(word)


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.txt", Writing()), ("self", Reading()), ("general", Reading()), ("general/code", Writing())],
)
def test_options_are_those_of_the_source(name: str, options: Any) -> None:
    with pytest.raises(ConfigError, match="no options of the kind"):
        Source(name, 1.0, options)


NAMES = st.one_of(
    st.sampled_from(["general", "general/code", "C:\\a.txt", "hf://datasets/a/b", "a:2", "x:1e5"]),
    st.text(min_size=1).map(str.strip).filter(bool).filter(lambda name: "=" not in name and name != "self"),
)
WEIGHTS = st.one_of(st.floats(1e-6, 1e6), st.integers(1, 1000).map(float))


@given(NAMES, WEIGHTS, st.booleans())
def test_names_and_weights_come_back(name: str, weight: float, weighted: bool) -> None:
    source = Source.of(name, {"weight": weight})
    assert parse_source(spell_source(source, weighted)) == source


@given(st.floats(0.01, 10), st.floats(1e-6, 1), st.sampled_from(["random", "chat"]), WEIGHTS, st.booleans())
def test_options_come_back(temperature: float, top_p: float, starts: Any, weight: float, weighted: bool) -> None:
    source = Source("self", weight, Writing(temperature, top_p, starts, "restart"))
    assert parse_source(spell_source(source, weighted)) == source
