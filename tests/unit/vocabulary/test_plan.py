"""Which tokens stay, and why."""

from __future__ import annotations

from typing import Any

import pytest

from optimum_grail.errors import ConfigError
from optimum_grail.vocabulary.kinds import Bpe
from optimum_grail.vocabulary.plan import VocabularyPlan, Wishes, make_plan

KIND = Bpe(
    {
        "vocab": {token: id_ for id_, token in enumerate(["<s>", "a", "b", "c", "ab", "abc", "bc", "cab"])},
        "merges": [["a", "b"], ["ab", "c"], ["b", "c"], ["c", "ab"]],
    }
)
SPECIAL = {"special": frozenset({0})}


def plan(counts: dict[int, int], wishes: Wishes | None = None) -> VocabularyPlan:
    return make_plan(KIND, counts, frozenset(), SPECIAL, wishes or Wishes())


def test_what_is_used_and_what_that_is_built_from() -> None:
    found = plan({5: 2})
    assert found.kept == (0, 1, 2, 3, 4, 5)
    assert found.ids == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5}
    assert found.reasons["used by the data"] == 1 and found.reasons["what these are built from"] == 1
    assert sum(found.reasons.values()) == len(found.kept)


def test_numbers_close_up() -> None:
    assert plan({6: 1}).kept == (0, 1, 2, 3, 6) and plan({6: 1}).ids[6] == 4


def test_rows_are_rounded_up() -> None:
    assert [plan({6: 1}, Wishes(round_to=step)).rows for step in (1, 4, 5, 8)] == [5, 8, 5, 8]


def test_rare_ones_go() -> None:
    assert plan({5: 1, 6: 2}, Wishes(min_count=2)).kept == (0, 1, 2, 3, 6)


def test_asked_ones_stay_with_what_they_are_built_from() -> None:
    assert plan({}, Wishes(keep=["cab"])).kept == (0, 1, 2, 3, 4, 7)


def test_a_token_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r"'cabs' is not in the vocabulary. Did you mean 'cab'"):
        plan({}, Wishes(keep=["cabs"]))


def test_tokens_that_were_tried_stay() -> None:
    assert make_plan(KIND, {}, frozenset({"bc"}), SPECIAL, Wishes()).kept == (0, 1, 2, 3, 6)


@pytest.mark.parametrize(
    "wrong", [{"min_count": 0}, {"round_to": -1}, {"min_count": True}, {"round_to": 1.5}, {"keep": "abc"}]
)
def test_wrong_wishes(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Wishes(**wrong)
