"""Which of llama.cpp's ways to split text a tokenizer has, told by its own definition.

llama.cpp knows the first step of a byte-level tokenizer, the cuts that no token crosses, by a name. Its converter finds
the name by a hash of what a tokenizer makes of one text, which changes with every vocabulary; here the definition
itself is compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optimum_grail.errors import CheckpointError, shorten

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
_QWEN2 = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST
_CASED = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_CASED}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_CASED}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

Steps = tuple[tuple[str, str], ...]
KNOWN: Mapping[tuple[Steps, bool], str] = {
    ((("bytes", "words"),), False): "gpt-2",
    ((("digits", "one"), ("bytes", "words")), False): "smollm",
    ((("split", _LLAMA3), ("bytes", "")), True): "llama-bpe",
    ((("split", _LLAMA3), ("bytes", "")), False): "smaug-bpe",
    ((("split", _QWEN2), ("bytes", "")), False): "qwen2",
    ((("split", _TEKKEN), ("bytes", "")), True): "tekken",
}
"""llama.cpp's name, by the steps and by whether words that are tokens are taken whole (``ignore_merges``)."""


def name_of(definition: Mapping[str, Any]) -> str:
    """llama.cpp's name for the way a byte-level tokenizer splits text.

    Args:
        definition: what ``tokenizer.json`` holds.

    Raises:
        CheckpointError: it is none of :data:`KNOWN`.
    """
    steps = tuple(_steps(definition.get("pre_tokenizer")))
    whole = bool(definition["model"].get("ignore_merges"))
    if (steps, whole) in KNOWN:
        return KNOWN[steps, whole]
    raise CheckpointError(
        f"The tokenizer splits text in a way that has no name here: {shorten(definition.get('pre_tokenizer'), 300)}"
        f"{', words that are tokens taken whole' if whole else ''}. If you know llama.cpp's name for it, pass "
        f"--pre-tokenizer NAME; known are {', '.join(KNOWN.values())}."
    )


def _steps(node: object) -> Iterator[tuple[str, str]]:
    """The steps of a pre-tokenizer in the words of :data:`KNOWN`; what is none of them as it is."""
    kind = node.get("type") if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping):
        return
    if kind == "Sequence":
        for part in node["pretokenizers"]:
            yield from _steps(part)
    elif kind == "ByteLevel" and not node.get("add_prefix_space"):
        yield "bytes", "words" if node.get("use_regex", True) else ""
    elif kind == "Digits" and node.get("individual_digits"):
        yield "digits", "one"
    elif kind == "Split" and node.get("behavior") == "Isolated" and not node.get("invert"):
        pattern = node.get("pattern", {})
        yield "split", str(pattern.get("Regex", pattern))
    else:
        yield "unknown", str(node)
