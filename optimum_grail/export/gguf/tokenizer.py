"""A tokenizer as llama.cpp's keys: tokens with types, and merges or scores.

Two kinds are written. Byte-level BPE (GPT-2, LLaMA 3, Qwen, SmolLM) is llama.cpp's ``gpt2``; BPE on characters with
bytes for the rest (SentencePiece's, as LLaMA 2 has it) is its ``llama``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from optimum_grail.errors import CheckpointError, shorten
from optimum_grail.export.gguf.plan import Value
from optimum_grail.export.gguf.splitting import name_of

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""``tokenizer.ggml.token_type``."""
SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}
"""transformers' names of special tokens, and llama.cpp's."""
_SPACE = "\u2581"
_REMEDY = "Export without text is not possible; run this model with transformers."


def tokenizer_keys(tokenizer: Any, rows: int, pre_tokenizer: str | None = None) -> tuple[dict[str, Value], list[str]]:
    """The keys of a tokenizer.

    Args:
        tokenizer: a fast tokenizer of transformers, or ``None``.
        rows: of the embeddings; rows without a token get one that is never used.
        pre_tokenizer: llama.cpp's name for the way a byte-level tokenizer splits text; by default found out.

    Returns:
        the keys, and sentences about what llama.cpp will do otherwise.

    Raises:
        CheckpointError: there is no tokenizer, it has more tokens than the model has rows, or llama.cpp could not
            split text as it does.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise CheckpointError(
            f"The model has no tokenizer.json ({type(tokenizer).__name__}), and llama.cpp needs the tokens in the "
            "file. Put the files of its tokenizer into the model's folder."
        )
    backend = tokenizer.backend_tokenizer
    definition = json.loads(backend.to_str())
    vocabulary = backend.get_vocab(with_added_tokens=True)
    if vocabulary and max(vocabulary.values()) >= rows:
        raise CheckpointError(
            f"The tokenizer has the token {max(vocabulary.values())} and the embeddings have {rows} rows. Restore the "
            "tokenizer that belongs to the model."
        )
    words: list[str] = [f"[PAD{index}]" for index in range(rows)]
    types = [UNUSED] * rows
    for word, index in vocabulary.items():
        words[index], types[index] = word, NORMAL
    notes = list(_added(definition, types))
    if _is_byte_level(definition.get("pre_tokenizer")):
        keys = _byte_level(definition, pre_tokenizer)
    elif pre_tokenizer is not None:
        raise CheckpointError(
            f"--pre-tokenizer {pre_tokenizer} is for byte-level tokenizers, and this is none. Leave it out."
        )
    else:
        keys = _sentencepiece(definition, words, types, notes)
    keys |= {"tokenizer.ggml.tokens": words, "tokenizer.ggml.token_type": types, **_special(tokenizer, rows)}
    return keys, notes


def _is_byte_level(node: object) -> bool:
    if not isinstance(node, Mapping):
        return False
    return node.get("type") == "ByteLevel" or any(_is_byte_level(part) for part in node.get("pretokenizers", ()))


def _added(definition: Mapping[str, Any], types: list[int]) -> Iterator[str]:
    """Note the types of added tokens in ``types``; yields a sentence about those that take spaces along."""
    greedy = []
    for token in definition.get("added_tokens", ()):
        types[token["id"]] = CONTROL if token.get("special") else USER_DEFINED
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            greedy.append(token["content"])
    if greedy:
        yield (
            f"{len(greedy)} added tokens, such as {greedy[0]!r}, take spaces beside them along or want whole words; "
            "llama.cpp leaves those spaces to the text."
        )


def _checked(definition: Mapping[str, Any], normalizers: Sequence[str]) -> Mapping[str, Any]:
    """The model of the tokenizer, if llama.cpp has its like."""
    model: Mapping[str, Any] = definition["model"]
    wrong = [name for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model.get(name)]
    if model.get("type") != "BPE" or not model.get("merges") or wrong:
        raise CheckpointError(
            f"The tokenizer is of the kind {model.get('type')!r}{' with ' + ', '.join(wrong) if wrong else ''}, with "
            f"{len(model.get('merges') or ())} merges; expected plain BPE, on bytes or on characters with bytes for "
            f"the rest. {_REMEDY}"
        )
    for node in _flat(definition.get("normalizer"), "normalizers"):
        if node.get("type") not in normalizers:
            raise CheckpointError(
                f"The tokenizer changes texts before it splits them, by {shorten(dict(node), 200)}, which llama.cpp "
                f"does not do. {_REMEDY}"
            )
    return model


def _flat(node: object, inner: str) -> list[Mapping[str, Any]]:
    if not isinstance(node, Mapping):
        return []
    return [part for item in node[inner] for part in _flat(item, inner)] if inner in node else [node]


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
    return [(str(left), str(right)) for left, right in pairs]


def _byte_level(definition: Mapping[str, Any], pre_tokenizer: str | None) -> dict[str, Value]:
    model = _checked(definition, ("NFC",))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre_tokenizer or name_of(definition),
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in _merges(model)],
    }


def _sentencepiece(
    definition: Mapping[str, Any], words: Sequence[str], types: list[int], notes: list[str]
) -> dict[str, Value]:
    """Keys of BPE on characters. llama.cpp joins the pair whose piece has the highest score: the earliest merge."""
    model = _checked(definition, ("Prepend", "Replace"))
    prefix = _prefix(definition)
    if prefix and definition.get("pre_tokenizer") is not None:
        notes.append(
            "llama.cpp puts a space before a text that begins with one, and before what follows a special token; this "
            "tokenizer does neither."
        )
    index = {word: number for number, word in enumerate(words)}
    missing = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in index]
    if missing or not model.get("byte_fallback"):
        raise CheckpointError(
            f"The tokenizer has no tokens for {len(missing)} of the 256 bytes (or does not use them), and llama.cpp "
            f"needs them for characters that it does not know. {_REMEDY}"
        )
    for byte in range(256):
        types[index[f"<0x{byte:02X}>"]] = BYTE
    if model.get("unk_token") in index:
        types[index[model["unk_token"]]] = UNKNOWN
    merges = _merges(model)
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    pieces = [word for word, kind in zip(words, types, strict=True) if kind == NORMAL and len(word) > 1]
    notes += _ambiguous(merges, pieces, index)
    scores = [-float(ranks.get(word, len(merges))) for word in words]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.add_space_prefix": prefix,
    }


def _prefix(definition: Mapping[str, Any]) -> bool:
    """Whether a space is put before the text; refuses what is done to spaces otherwise."""
    found = False
    for node in _flat(definition.get("normalizer"), "normalizers"):
        replaces = (
            node.get("type") == "Replace" and node.get("pattern") == {"String": " "} and node["content"] == _SPACE
        )
        found = found or node.get("type") == "Prepend"
        if not replaces and not (node.get("type") == "Prepend" and node["prepend"] == _SPACE):
            raise CheckpointError(
                f"The tokenizer changes texts by {shorten(dict(node), 200)}, which llama.cpp does not do. {_REMEDY}"
            )
    for node in _flat(definition.get("pre_tokenizer"), "pretokenizers"):
        found = found or node.get("prepend_scheme", "always") != "never"
        if node.get("type") != "Metaspace" or node.get("replacement") != _SPACE or node.get("split", True):
            raise CheckpointError(
                f"The tokenizer splits text by {shorten(dict(node), 200)}, which llama.cpp does not do for this kind. "
                f"{_REMEDY}"
            )
    return found


def _ambiguous(merges: Sequence[tuple[str, str]], pieces: Sequence[str], index: Mapping[str, int]) -> Iterator[str]:
    """A sentence where llama.cpp, which knows pieces and not pairs, can join what the tokenizer does not."""
    known = set(merges)
    loose = sum(
        any(
            (piece[:cut], piece[cut:]) not in known and piece[:cut] in index and piece[cut:] in index
            for cut in range(1, len(piece))
        )
        for piece in pieces
    )
    if loose:
        yield (
            f"{loose} of {len(pieces)} pieces can be joined from pairs that the tokenizer does not list, and llama.cpp "
            "joins them all the same: some words may be split elsewhere. Token ids mean the same."
        )


def _special(tokenizer: Any, rows: int) -> dict[str, Value]:
    """Special tokens, what goes before and after every text, and the chat template."""
    keys: dict[str, Value] = {}
    for name, label in SPECIAL.items():
        token = tokenizer.special_tokens_map.get(f"{name}_token")
        number = None if token is None else tokenizer.convert_tokens_to_ids(token)
        if isinstance(number, int) and 0 <= number < rows:
            keys[f"tokenizer.ggml.{label}_token_id"] = number
    whole, plain = (tokenizer("a", add_special_tokens=flag)["input_ids"] for flag in (True, False))
    before, after = _around(whole, plain)
    known = {name: keys.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    if before not in ([], [known["bos"]]) or after not in ([], [known["eos"]]):
        raise CheckpointError(
            f"The tokenizer puts the tokens {before} before and {after} after a text; llama.cpp puts the first and the "
            f"last special token ({known['bos']}, {known['eos']}) or none. {_REMEDY}"
        )
    keys |= {"tokenizer.ggml.add_bos_token": bool(before), "tokenizer.ggml.add_eos_token": bool(after)}
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return keys | ({"tokenizer.chat_template": template} if isinstance(template, str) else {})


def _around(whole: list[int], plain: list[int]) -> tuple[list[int], list[int]]:
    """What stands before and after ``plain`` in ``whole``."""
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return whole, []
