"""Ids in configs and tokenizer files."""

from __future__ import annotations

from typing import Any

import pytest

from optimum_grail.errors import CheckpointError
from optimum_grail.vocabulary.kinds import Unigram
from optimum_grail.vocabulary.renumbering import (
    named_ids,
    renumbered,
    settings_values,
    template_ids,
    tokenizer_values,
)

IDS = {2: 0, 5: 1, 7: 2, 9: 3}
CONFIG: dict[str, Any] = {
    "bos_token_id": 2,
    "eos_token_id": [5, 7],
    "pad_token_id": -1,
    "sep_token_id": None,
    "decoder_start_token_id": 9,
    "forced_decoder_ids": [[1, 5], [2, None]],
    "lang_to_id": {"<|en|>": 7},
    "force_words_ids": [[2, 5]],
    "suppress_tokens": [5, 6, 9],
    "begin_suppress_tokens": [6],
    "bad_words_ids": [[5, 9], [5, 6]],
    "hidden_size": 5,
    "use_cache": True,
    "task_specific_params": {"summary": {"forced_bos_token_id": 5, "max_length": 7}},
}


def test_every_field_of_ids() -> None:
    assert renumbered(CONFIG, IDS) == {
        "bos_token_id": 0,
        "eos_token_id": [1, 2],
        "pad_token_id": -1,
        "sep_token_id": None,
        "decoder_start_token_id": 3,
        "forced_decoder_ids": [[1, 1], [2, None]],
        "lang_to_id": {"<|en|>": 2},
        "force_words_ids": [[0, 1]],
        "suppress_tokens": [1, 3],
        "begin_suppress_tokens": None,
        "bad_words_ids": [[1, 3]],
        "hidden_size": 5,
        "use_cache": True,
        "task_specific_params": {"summary": {"forced_bos_token_id": 1, "max_length": 7}},
    }


def test_named_tokens_have_to_stay_and_suppressed_ones_need_not() -> None:
    assert named_ids(CONFIG, 10, "config.json") == {2, 5, 7, 9}


def test_an_id_beyond_the_embedding() -> None:
    with pytest.raises(CheckpointError, match=r"config.json names the token 9, but the embedding has 9 rows"):
        named_ids(CONFIG, 9, "config.json")


def test_fields_that_are_not_known() -> None:
    with pytest.raises(CheckpointError, match="sequence_bias"):
        named_ids({"sequence_bias": [[[5], -1.0]]}, 10, "generation_config.json")
    assert named_ids({"sequence_bias": None}, 10, "generation_config.json") == frozenset()


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [2], "tokens": ["<s>"]}},
}
ENDS = {"type": "RobertaProcessing", "sep": ["</s>", 5], "cls": ["<s>", 2], "trim_offsets": True}


def test_post_processors_added_tokens_and_padding() -> None:
    vocab = [[chr(97 + number), -float(number)] for number in range(10)]
    values = {
        "added_tokens": [{"id": 7, "content": "h"}],
        "post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, TEMPLATE, ENDS]},
        "padding": {"pad_id": 9, "pad_token": "j"},
        "truncation": {"max_length": 4},
        "model": {"vocab": vocab, "unk_id": 5},
    }
    assert template_ids(values) == {2, 5, 9}
    found = tokenizer_values(values, Unigram(values["model"]), IDS)
    assert found["added_tokens"] == [{"id": 2, "content": "h"}]
    inner = found["post_processor"]["processors"]
    assert inner[0] == {"type": "ByteLevel"}
    assert inner[1]["special_tokens"]["<s>"]["ids"] == [0] and inner[1]["single"] == TEMPLATE["single"]
    assert (inner[2]["sep"], inner[2]["cls"]) == (["</s>", 1], ["<s>", 0])
    assert found["padding"] == {"pad_id": 3, "pad_token": "j"} and found["truncation"] == {"max_length": 4}
    assert [token for token, _ in found["model"]["vocab"]] == ["c", "f", "h", "j"]
    assert values["added_tokens"][0]["id"] == 7  # what was given is as it was


def test_none_of_them_and_an_unknown_one() -> None:
    assert template_ids({}) == frozenset()
    with pytest.raises(CheckpointError, match="'Mystery'"):
        template_ids({"post_processor": {"type": "Mystery"}})


def test_added_tokens_of_older_files() -> None:
    values = {"added_tokens_decoder": {"5": {"content": "</s>"}}, "eos_token": "</s>"}
    assert settings_values(values, IDS) == {"added_tokens_decoder": {"1": {"content": "</s>"}}, "eos_token": "</s>"}
    assert settings_values({"eos_token": "</s>"}, IDS) == {"eos_token": "</s>"}
