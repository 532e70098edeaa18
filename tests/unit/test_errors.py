"""Errors: what counts as a slip of the pen, and messages that stay short."""

from __future__ import annotations

import pytest

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.compensators import COMPENSATORS
from optimum_grail.config.options import BY_NAME
from optimum_grail.config.presets import PRESETS
from optimum_grail.errors import UnknownNameError, nearest
from optimum_grail.selectors import SELECTORS

NAMES = [*SELECTORS.names(), *COMPENSATORS.names(), *ALLOCATIONS.names(), *PRESETS, *BY_NAME]


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


@pytest.mark.parametrize(
    "word",
    ["", "x", "foo", "best", "gptq", "awq", "llama", "bits", "colour", "model_type", "hidden_size", "learning_rate"],
)
def test_far_names_are_not(word: str) -> None:
    assert nearest(word, NAMES) is None


@pytest.mark.parametrize(
    ("word", "known"), [("random", "wanda"), ("liar", "flap"), ("prune", "grail"), ("obs", "none")]
)
def test_names_that_share_letters_are_not_near(word: str, known: str) -> None:
    assert nearest(word, [known]) is None


def test_a_long_name_is_cut_in_the_message() -> None:
    message = str(UnknownNameError.among("selector", "x" * 5000, ["wanda"], "Look there."))
    assert len(message) < 200 and message.endswith("Available: wanda. Look there.") and "Did you mean" not in message
