"""What holds for every kind of tokenizer: the data's own words have the same tokens, and nothing becomes unknown."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from optimum_grail.vocabulary.counting import Corpus, compare, count, is_same, passed_over, plain
from optimum_grail.vocabulary.kinds import kind_of
from optimum_grail.vocabulary.plan import VocabularyPlan, Wishes, make_plan
from optimum_grail.vocabulary.renumbering import template_ids, tokenizer_values

SEEDS = st.lists(st.integers(0, 10**6), min_size=1, max_size=12)


@dataclass(frozen=True)
class Pair:
    """A tokenizer, and what is left of it."""

    before: Tokenizer
    after: Tokenizer
    plan: VocabularyPlan

    def renumbered(self, text: str) -> list[int]:
        return [self.plan.ids.get(id_, -1) for id_ in self.before.encode(text).ids]

    def unknown(self, tokenizer: Tokenizer, text: str) -> int:
        return sum(token in ("<unk>", "[UNK]") for token in tokenizer.encode(text).tokens)


def trim(tokenizer: Tokenizer, texts: list[str], wishes: Wishes) -> Pair:
    before = plain(tokenizer)
    values = json.loads(before.to_str())
    kind = kind_of(values, "here")
    fixed = {"special": frozenset(token["id"] for token in values["added_tokens"]) | template_ids(values)}
    plan = make_plan(kind, count(before, texts), passed_over(before, kind, texts), fixed, wishes)
    return Pair(before, Tokenizer.from_str(json.dumps(tokenizer_values(values, kind, plan.ids))), plan)


@pytest.fixture(scope="session")
def pair(tokenizer: Tokenizer, data: list[str]) -> Pair:
    return trim(tokenizer, data, Wishes())


def test_much_goes_and_ids_are_those_of_the_rows(pair: Pair) -> None:
    assert pair.after.get_vocab_size() < 0.8 * pair.before.get_vocab_size()
    assert sorted(pair.after.get_vocab().values()) == list(range(len(pair.plan.kept)))
    for token, id_ in pair.after.get_vocab().items():
        assert pair.plan.kept[id_] == pair.before.token_to_id(token)


def test_the_data_has_the_same_tokens(pair: Pair, data: list[str]) -> None:
    assert is_same(pair.before, pair.after, pair.plan.ids, data)
    found = compare(pair.before, pair.after, pair.plan.ids, Corpus("data", data))
    assert (found.share, found.growth, found.name) == (1.0, 0.0, "data") and found.before > 100


@given(seeds=SEEDS)
def test_texts_of_its_words_have_the_same_tokens(pair: Pair, words: list[str], seeds: list[int]) -> None:
    text = " ".join(words[seed % len(words)] for seed in seeds)
    assert pair.after.encode(text).ids == pair.renumbered(text)


@given(text=st.text(max_size=30) | st.text("abcdefghijklmnopqrstuvwxyz ,.ABC123", max_size=60))
def test_nothing_becomes_unknown(pair: Pair, text: str) -> None:
    if pair.unknown(pair.before, text):
        return
    assert pair.unknown(pair.after, text) == 0
    assert pair.after.decode(pair.after.encode(text).ids) == pair.before.decode(pair.before.encode(text).ids)


def test_other_text_has_more_tokens_and_is_told_of(pair: Pair) -> None:
    text = ["Whenever somebody remembered, everything happened somewhere else, although nothing mattered."]
    found = compare(pair.before, pair.after, pair.plan.ids, Corpus("other", text))
    assert found.after > found.before and 0 < found.share < 1 and found.growth > 0
    assert not is_same(pair.before, pair.after, pair.plan.ids, text)


def test_rare_tokens_go_where_that_is_asked(tokenizer: Tokenizer, data: list[str], pair: Pair) -> None:
    fewer = trim(tokenizer, data, Wishes(min_count=4))
    assert len(fewer.plan.kept) < len(pair.plan.kept)
    assert not is_same(fewer.before, fewer.after, fewer.plan.ids, data)
    assert fewer.after.decode(fewer.after.encode(data[0]).ids) == fewer.before.decode(fewer.before.encode(data[0]).ids)


def test_tokens_that_are_asked_for_stay(tokenizer: Tokenizer, pair: Pair) -> None:
    gone = sorted(set(pair.before.get_vocab()) - set(pair.after.get_vocab()))
    more = trim(tokenizer, ["x"], Wishes(keep=gone[:3]))
    assert set(gone[:3]) <= set(more.after.get_vocab())
    assert 0 < more.plan.reasons["asked for"] <= 3
    for token in gone[:3]:  # and can be reached as before
        text = pair.before.decode([pair.before.token_to_id(token)]).strip()
        assert more.after.encode(text).ids == more.renumbered(text) or -1 in more.renumbered(text)


def test_what_surrounds_a_text_is_renumbered(pair: Pair) -> None:
    assert pair.after.encode("").ids == pair.renumbered("")
    assert pair.after.encode("").tokens == pair.before.encode("").tokens
