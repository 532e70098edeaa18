"""Tokenizers as llama.cpp's keys."""

from __future__ import annotations

import json

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from optimum_grail.errors import CheckpointError
from optimum_grail.export.gguf.splitting import KNOWN, name_of
from optimum_grail.export.gguf.tokenizer import tokenizer_keys

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?"
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern, **changes):
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [step | changes, {**BYTES, "use_regex": False}]}


def words_of(tokenizer, rows=10):
    return tokenizer_keys(tokenizer, rows)[0]


@pytest.mark.parametrize(
    ("node", "whole", "name"),
    [
        ({**BYTES, "use_regex": True}, False, "gpt-2"),
        (
            {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]},
            False,
            "smollm",
        ),
        (split(LLAMA3), True, "llama-bpe"),
        (split(LLAMA3), False, "smaug-bpe"),
        (split(QWEN2), False, "qwen2"),
        (split(TEKKEN), True, "tekken"),
    ],
)
def test_ways_to_split_are_known_by_their_definition(node, whole, name):
    assert name_of({"pre_tokenizer": node, "model": {"ignore_merges": whole}}) == name
    assert name in KNOWN.values()


@pytest.mark.parametrize(
    "node",
    [
        {**BYTES, "add_prefix_space": True},
        split(r"\w+"),
        split(LLAMA3, behavior="Removed"),
        split(LLAMA3, invert=True),
        {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": False}, BYTES]},
        {"type": "Sequence", "pretokenizers": [{"type": "Punctuation"}, BYTES]},
    ],
)
def test_other_ways_are_refused(node):
    with pytest.raises(CheckpointError, match="--pre-tokenizer NAME"):
        name_of({"pre_tokenizer": node, "model": {}})


def test_byte_level(bytewise):
    keys = words_of(bytewise)
    assert keys["tokenizer.ggml.model"] == "gpt2"
    assert keys["tokenizer.ggml.pre"] == "gpt-2"
    assert keys["tokenizer.ggml.tokens"][:7] == ["<s>", "</s>", "a", "b", "ab", "Ġ", "<tool>"]
    assert keys["tokenizer.ggml.tokens"][7:] == ["[PAD7]", "[PAD8]", "[PAD9]"]
    assert keys["tokenizer.ggml.token_type"] == [3, 3, 1, 1, 1, 1, 4, 5, 5, 5]
    assert keys["tokenizer.ggml.merges"] == ["a b"]
    assert (keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.eos_token_id"]) == (0, 1)
    assert keys["tokenizer.ggml.add_bos_token"] is False
    assert "tokenizer.chat_template" not in keys


def test_a_name_for_the_way_to_split_wins(bytewise):
    assert tokenizer_keys(bytewise, 10, "falcon3")[0]["tokenizer.ggml.pre"] == "falcon3"


def test_a_chat_template_goes_along(bytewise):
    bytewise.chat_template = {"default": "{{ messages }}", "tools": "{{ tools }}"}
    assert words_of(bytewise)["tokenizer.chat_template"] == "{{ messages }}"


def test_characters_with_bytes_for_the_rest(charwise):
    keys, notes = tokenizer_keys(charwise, 266)
    assert notes == []
    assert keys["tokenizer.ggml.model"] == "llama"
    scores = dict(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.scores"], strict=True))
    assert scores["ab"] > scores["abc"] > scores["▁abc"]
    types = dict(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"], strict=True))
    assert (types["<unk>"], types["<s>"], types["<0x0A>"], types["a"]) == (2, 3, 6, 1)
    assert keys["tokenizer.ggml.add_space_prefix"] is True
    assert keys["tokenizer.ggml.add_bos_token"] is True
    with pytest.raises(CheckpointError, match="for byte-level tokenizers"):
        tokenizer_keys(charwise, 266, "qwen2")


def changed(tokenizer, change):
    """The tokenizer with another definition."""
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    change(definition)
    made = Tokenizer.from_str(json.dumps(definition))
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def test_a_piece_that_can_be_joined_otherwise_is_told(charwise):
    def less(definition):
        definition["model"]["merges"] = [["a", "b"], ["ab", "c"]]
        definition["model"]["vocab"]["bc"] = 266

    _, notes = tokenizer_keys(changed(charwise, less), 300)
    assert notes[0].startswith("3 of 4 pieces can be joined")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: it["model"].update(byte_fallback=False), "256 bytes"),
        (lambda it: it.update(normalizer=normal(normalizers.Lowercase())), "Lowercase"),
        (lambda it: it.update(normalizer=normal(normalizers.Replace(Regex(" +"), "▁"))), "Replace"),
        (lambda it: it.update(normalizer=normal(normalizers.Prepend("_"))), "Prepend"),
        (lambda it: it.update(pre_tokenizer=node(pre_tokenizers.Whitespace())), "Whitespace"),
        (lambda it: it["model"].update(dropout=0.1), "dropout"),
        (lambda it: it["model"].update(merges=[]), "0 merges"),
    ],
)
def test_what_llama_cpp_does_not_do_is_refused(change, message, charwise):
    with pytest.raises(CheckpointError, match=message):
        tokenizer_keys(changed(charwise, change), 300)


def normal(normalizer):
    made = Tokenizer(models.BPE())
    made.normalizer = normalizer
    return json.loads(made.to_str())["normalizer"]


def node(pre_tokenizer):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizer
    return json.loads(made.to_str())["pre_tokenizer"]


@pytest.mark.parametrize("scheme", ["never", "first"])
def test_spaces_in_the_pre_tokenizer(charwise, scheme):
    def newer(definition):
        definition["normalizer"] = None
        definition["pre_tokenizer"] = node(pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False))

    keys, notes = tokenizer_keys(changed(charwise, newer), 300)
    assert keys["tokenizer.ggml.add_space_prefix"] is (scheme == "first")
    assert any("puts a space before a text" in note for note in notes) is (scheme == "first")


def test_no_tokenizer_and_one_of_another_model(bytewise):
    with pytest.raises(CheckpointError, match="no tokenizer"):
        tokenizer_keys(None, 10)
    with pytest.raises(CheckpointError, match="the token 6 and the embeddings have 5 rows"):
        tokenizer_keys(bytewise, 5)


def test_what_goes_around_a_text(bytewise):
    template = processors.TemplateProcessing(
        single="<tool> $A </s>", pair="$A $B", special_tokens=[("<tool>", 6), ("</s>", 1)]
    )
    bytewise.backend_tokenizer.post_processor = template
    with pytest.raises(CheckpointError, match=r"tokens \[6\] before and \[1\] after"):
        tokenizer_keys(bytewise, 10)


def test_tokens_that_take_spaces_along_are_told(bytewise):
    definition = json.loads(bytewise.backend_tokenizer.to_str())
    definition["added_tokens"][-1]["lstrip"] = True
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(definition)))
    _, notes = tokenizer_keys(made, 10)
    assert notes[0].startswith("1 added tokens, such as")
