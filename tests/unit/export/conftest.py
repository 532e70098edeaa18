"""Sub-blocks without a model, and tokenizers without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from optimum_grail.export.decoder import Attention, Decoder, FeedForward, Linear, SubBlock
from optimum_grail.export.rope import Rope

HIDDEN, DIM = 8, 4


def linear(name: str, rows: int, columns: int, biased: bool) -> Linear:
    return Linear(f"{name}.weight", f"{name}.bias" if biased else None, rows, columns)


def attention(path: str, groups: int, biased: bool, query: int = 2) -> Attention:
    rows = [query * groups * DIM, groups * DIM, groups * DIM]
    parts = [linear(f"{path}.{name}", count, HIDDEN, biased) for name, count in zip("qkv", rows, strict=True)]
    out = linear(f"{path}.o", HIDDEN, rows[0], biased)
    return Attention(f"{path}.norm", *parts, out, query * groups, groups)


def feed_forward(path: str, channels: int, biased: bool) -> FeedForward:
    parts = [linear(f"{path}.{name}", channels, HIDDEN, biased) for name in ("gate", "up")]
    return FeedForward(f"{path}.norm", *parts, linear(f"{path}.down", HIDDEN, channels, biased))


@pytest.fixture
def blocks() -> Callable[..., list[SubBlock]]:
    """Sub-blocks of layers with these key-value heads and channels."""

    def make(*widths: tuple[int, int], biased: bool = False) -> list[SubBlock]:
        found: list[SubBlock] = []
        for index, (groups, channels) in enumerate(widths):
            found += [attention(f"a{index}", groups, biased), feed_forward(f"f{index}", channels, biased)]
        return found

    return make


@pytest.fixture
def decoder(blocks: Any) -> Callable[..., Decoder]:
    """A model of layers with these key-value heads and channels."""

    def make(*widths: tuple[int, int], biased: bool = False, **settings: Any) -> Decoder:
        values: dict[str, Any] = {
            "family": "llama",
            "sub_blocks": tuple(blocks(*widths, biased=biased)),
            "embedding": "embedding",
            "norm": "norm",
            "head": "head",
            "vocabulary": 10,
            "hidden": HIDDEN,
            "head_dim": DIM,
            "epsilon": 1e-5,
            "context": 64,
            "window": None,
            "rope": Rope(10000.0),
        }
        return Decoder(**{**values, **settings})

    return make


@pytest.fixture
def shapes() -> Callable[[Decoder], dict[str, tuple[int, ...]]]:
    """Shapes of a decoder's tensors by name."""

    def of(model: Decoder) -> dict[str, tuple[int, ...]]:
        table = (model.vocabulary, model.hidden)
        found = {"embedding": table, "head": table, "norm": (model.hidden,)}
        for block in model.sub_blocks:
            found[block.norm] = (model.hidden,)
            parts = (
                (block.query, block.key, block.value, block.out)
                if isinstance(block, Attention)
                else (block.gate, block.up, block.out)
            )
            for part in parts:
                found[part.weight] = (part.rows, part.columns)
                if part.bias is not None:
                    found[part.bias] = (part.rows,)
        return found

    return of


@pytest.fixture
def bytewise() -> PreTrainedTokenizerFast:
    """Byte-level BPE of a few words, as GPT-2 has it."""
    words = ["<s>", "</s>", "a", "b", "ab", "Ġ", "<tool>"]
    made = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, [("a", "b")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    made.add_tokens(["<tool>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


@pytest.fixture
def charwise() -> PreTrainedTokenizerFast:
    """BPE on characters with bytes for the rest, as LLaMA 2 has it."""
    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "a",
        "b",
        "c",
        "ab",
        "abc",
        "▁abc",
    ]
    merges = [("a", "b"), ("ab", "c"), ("▁", "abc")]
    made = Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # type: ignore[assignment]
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
