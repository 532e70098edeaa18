"""Errors stay short whatever was wrong, and guess only what is near."""

from __future__ import annotations

from typing import Any

import pytest

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.compensators import COMPENSATORS
from optimum_grail.config.options import BY_NAME
from optimum_grail.config.presets import presets
from optimum_grail.errors import LONGEST, ConfigError, GrailError, UnknownNameError, nearest, shorten
from optimum_grail.selectors import SELECTORS

NAMES = [*SELECTORS.names(), *COMPENSATORS.names(), *ALLOCATIONS.names(), *presets(), *BY_NAME]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), 10**5000, nested(900), nested(50_000), "x" * 5000, list(range(10**5)), {"a": "b" * 10**6}],
    ids=["400 digits", "negative", "5000 digits", "deep", "deeper", "letters", "list", "dict"],
)
def test_any_value_is_told_in_a_few_words(value: Any) -> None:
    assert 0 < len(shorten(value)) <= 80


@pytest.mark.parametrize("value", [3, 0.5, "a\nb", None, [1, 2], {"a": 1}, True])
def test_short_values_are_told_as_they_are(value: Any) -> None:
    assert shorten(value) == repr(value)


def test_a_long_message_keeps_its_beginning_and_its_remedy() -> None:
    text = str(GrailError(f"The path {'x' * 5000!r} is none. Name another one."))
    assert text.startswith("The path 'xxx") and text.endswith("x' is none. Name another one.") and len(text) < LONGEST
    assert str(ConfigError("Short. Stays.")) == "Short. Stays."


def test_a_long_name_is_not_echoed() -> None:
    error = UnknownNameError.among("selector", "wanda" * 10**6, ["wanda", "obs"])
    assert str(error).startswith("Unknown selector 'wandawanda") and len(str(error)) < 200
    assert "Available: obs, wanda." in str(error)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("wnda", "wanda"),
        ("Wandaa", "wanda"),
        ("magnitud", "magnitude"),
        ("grial", "grail"),
        ("grail_plus", "grail-plus"),
        ("balance", "balanced"),
        ("knapsak", "knapsack"),
        ("oscar", "osscar"),
        ("tailor", "taylor"),
        ("block_influence", "block-influence"),
        ("sparsty", "sparsity"),
        ("batchsize", "batch_size"),
        ("num-sample", "num_samples"),
        ("target_byte", "target_bytes"),
    ],
)
def test_near_names_are_suggested(word: str, meant: str) -> None:
    assert nearest(word, NAMES) == meant
    assert f"Did you mean {meant!r}?" in str(UnknownNameError.among("name", word, NAMES))


@pytest.mark.parametrize(
    "word",
    ["", "x", "foo", "best", "gptq", "awq", "llama", "bits", "colour", "model_type", "hidden_size", "learning_rate"],
)
def test_far_names_are_not(word: str) -> None:
    assert nearest(word, NAMES) is None
    assert "Did you mean" not in str(UnknownNameError.among("name", word, NAMES))


@pytest.mark.parametrize(
    ("word", "known"), [("random", "wanda"), ("liar", "flap"), ("prune", "grail"), ("bits", "bias"), ("obs", "none")]
)
def test_names_that_share_letters_are_not_near(word: str, known: str) -> None:
    assert nearest(word, [known]) is None
