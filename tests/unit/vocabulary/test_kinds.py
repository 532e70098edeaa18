"""What tokens are built from, on vocabularies made by hand."""

from __future__ import annotations

import pytest

from optimum_grail.errors import CheckpointError
from optimum_grail.vocabulary.kinds import Bpe, Unigram, WordPiece, closure, kind_of

BPE = Bpe(
    {
        "type": "BPE",
        "vocab": {token: id_ for id_, token in enumerate(["a", "b", "c", "d", "ab", "bc", "abc", "abcd", "cd", "xy"])},
        "merges": [["a", "b"], ["b", "c"], ["ab", "c"], ["a", "bc"], ["c", "d"], ["abc", "d"], ["ab", "cd"]],
    }
)


def test_the_merges_on_the_way_to_a_token() -> None:
    assert BPE.parts("abc") == {"ab"}
    assert BPE.parts("abcd") == {"ab", "abc"}  # not cd, which comes too late
    assert BPE.parts("bc") == BPE.parts("a") == frozenset()
    assert closure(BPE, ["abcd", "bc"]) == {"ab", "abc"}


def test_a_token_that_merges_do_not_lead_to_needs_nothing() -> None:
    assert BPE.parts("xy") == frozenset()


def test_merges_stay_in_order_where_all_three_tokens_stay() -> None:
    ids = {0: 0, 1: 1, 2: 2, 4: 3, 6: 4, 5: 5}
    trimmed = BPE.trimmed(ids)
    assert trimmed["merges"] == [["a", "b"], ["b", "c"], ["ab", "c"], ["a", "bc"]]
    assert trimmed["vocab"] == {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "bc": 5}


def test_single_characters_stay_and_what_cannot_be_spelled() -> None:
    assert BPE.alphabet == {"a", "b", "c", "d", "xy"}
    with_bytes = Bpe({**BPE.values, "byte_fallback": True, "vocab": {**BPE.values["vocab"], "<0x0A>": 10}})
    assert with_bytes.alphabet == {"a", "b", "c", "d", "<0x0A>"}


def test_ends_of_words_are_symbols() -> None:
    kind = Bpe({"vocab": {}, "merges": [["o", "g</w>"], ["d", "og</w>"]], "end_of_word_suffix": "</w>"})
    assert kind.symbols("dog</w>") == ("d", "o", "g</w>")
    assert kind.symbols("dog") == ("d", "o", "g")
    assert kind.parts("dog</w>") == {"og</w>"}


def test_the_lowest_score_stays_since_the_unknown_has_its_score_from_it() -> None:
    kind = Unigram({"vocab": [["<unk>", 0.0], ["a", -1.0], ["ab", -2.0], ["abc", -9.0]], "unk_id": 0})
    assert kind.indispensable == {"<unk>", "abc"}
    assert kind.tokens == {"<unk>": 0, "a": 1, "ab": 2, "abc": 3}
    assert kind.trimmed({0: 0, 3: 1}) == {"vocab": [["<unk>", 0.0], ["abc", -9.0]], "unk_id": 0}


def test_the_unknown_of_a_unigram_is_renumbered() -> None:
    kind = Unigram({"vocab": [["a", -1.0], ["<unk>", 0.0], ["b", -3.0]], "unk_id": 1})
    assert kind.trimmed({1: 0, 2: 1})["unk_id"] == 0
    assert Unigram({**kind.values, "unk_id": None}).indispensable == {"b"}


def test_a_word_that_was_given_up_keeps_what_was_tried() -> None:
    """Without ``ab``, ``a`` and ``##bx`` would spell a word that is unknown."""
    vocab = {token: id_ for id_, token in enumerate(["[UNK]", "a", "b", "ab", "##b", "##bx"])}
    kind = WordPiece(
        {"vocab": vocab, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 9}
    )
    assert kind.passed("abx") == {"ab"}
    assert kind.passed("x") == kind.passed("abx" * 4) == frozenset()
    assert kind.symbols("##bx") == ("##b", "##x") and kind.symbols("ab") == ("a", "##b")
    assert kind.passed("abab") == {"ab"} and kind.passed("abb") == kind.passed("abbx") == frozenset()
    assert kind.alphabet == {"[UNK]", "a", "b", "##b", "##bx"}  # x has no token of its own
    assert kind.indispensable == {"[UNK]"}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"type": "WordLevel"}, "is of the kind WordLevel; tokens can go from BPE, Unigram, WordPiece"),
        ({"type": "BPE", "dropout": 0.1}, "at random"),
        ({"type": "BPE", "continuing_subword_prefix": "@@"}, "'@@'"),
    ],
)
def test_other_kinds_are_refused(model: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        kind_of({"model": model}, "here")
