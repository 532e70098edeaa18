"""A whole file as a value: keys, and tensors with their types and what they are made of. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from optimum_grail.export.decoder import Attention, Decoder, FeedForward, Linear, Shapes
from optimum_grail.export.gguf.homes import ZERO_CHANNELS, Home, choose_home, widths
from optimum_grail.export.gguf.sources import Given, Source, Stacked, Stored, Sum, Zeros
from optimum_grail.export.gguf.types import BLOCK, FILE_TYPES, Type, bytes_of, is_quantized, type_of
from optimum_grail.export.packing import Layer, Part, pack
from optimum_grail.export.rope import Rope

Value = str | bool | int | float | Sequence[str] | Sequence[int] | Sequence[float]
"""What a key can hold; whole numbers are written in 32 bits without a sign, in lists with one."""


@dataclass(frozen=True)
class Entry:
    """A tensor of the file.

    Args:
        name: in the file.
        shape: rows first.
        type: how it is stored.
        source: what it is made of.
    """

    name: str
    shape: tuple[int, ...]
    type: Type
    source: Source

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return bytes_of(self.shape, self.type)


@dataclass(frozen=True)
class Plan:
    """A file.

    Args:
        architecture: the name of llama.cpp's architecture.
        type: what was asked for.
        keys: what it says, by name.
        entries: its tensors, in their order.
        repairs: sentences about layers that are other than in the model.
    """

    architecture: str
    type: Type
    keys: Mapping[str, Value]
    entries: tuple[Entry, ...]
    repairs: tuple[str, ...] = ()

    @property
    def unaligned(self) -> list[Entry]:
        """Matrices that could not get the type that was asked for, because their rows do not divide."""
        return [entry for entry in self.entries if is_quantized(self.type) and _is_odd(entry)]


def _is_odd(entry: Entry) -> bool:
    return len(entry.shape) > 1 and entry.shape[-1] % BLOCK > 0


def plan_file(decoder: Decoder, shapes: Shapes, kind: Type, words: Mapping[str, Value]) -> Plan:
    """Plan the file of a model.

    Args:
        decoder: the model.
        shapes: of its tensors by name.
        kind: type of its matrices.
        words: keys of the tokenizer, and what else is to be said.

    Raises:
        ArchitectureError: none of llama.cpp's architectures takes it.
    """
    home, layers = choose_home(decoder, pack(decoder.sub_blocks))
    sources = dict(_tensors(home, decoder, layers))
    entries = []
    for label, source in sources.items():
        shape = source.shape(shapes)
        entries.append(Entry(label, shape, type_of(label, shape, kind), source))
    keys = {**_keys(home, decoder, layers, kind), **words}
    return Plan(home.name, kind, keys, tuple(entries), tuple(_repairs(decoder, layers)))


def _keys(home: Home, decoder: Decoder, layers: Sequence[Layer], kind: Type) -> dict[str, Value]:
    counts = {
        key: list(column) if home.per_layer else column[0]
        for key, column in zip(
            ("attention.head_count", "attention.head_count_kv", "feed_forward_length"),
            zip(*map(widths, layers), strict=True),
            strict=True,
        )
    }
    own: dict[str, Value] = {
        "vocab_size": decoder.vocabulary,
        "context_length": decoder.context,
        "embedding_length": decoder.hidden,
        "block_count": len(layers),
        **counts,
        "attention.key_length": decoder.head_dim,  # or llama.cpp takes it to be embedding / heads of layer 0
        "attention.value_length": decoder.head_dim,
        "attention.layer_norm_rms_epsilon": decoder.epsilon,
        **_rope_keys(decoder.rope, decoder.head_dim),
    }
    general: dict[str, Value] = {"general.file_type": FILE_TYPES[kind]}
    if is_quantized(kind):
        general["general.quantization_version"] = 2
    return {**general, **{f"{home.name}.{key}": value for key, value in own.items()}}


def _rope_keys(rope: Rope, head_dim: int) -> dict[str, Value]:
    found: dict[str, Value] = {"rope.dimension_count": head_dim, "rope.freq_base": rope.base}
    if rope.attention != 1:
        found["rope.scaling.attn_factor"] = rope.attention
    if rope.longer and rope.original is not None:
        found |= {"rope.scaling.type": "longrope", "rope.scaling.original_context_length": rope.original}
    return found


def _tensors(home: Home, decoder: Decoder, layers: Sequence[Layer]) -> Iterator[tuple[str, Source]]:
    """Name and source of every tensor."""
    yield "token_embd.weight", Stored(decoder.embedding)
    yield "output_norm.weight", Stored(decoder.norm)
    if decoder.head is not None:
        yield "output.weight", Stored(decoder.head)
    rope = decoder.rope
    if rope.longer:
        yield "rope_factors_short.weight", Given(rope.divisors)
        yield "rope_factors_long.weight", Given(rope.longer)
    elif rope.divisors:
        yield "rope_freqs.weight", Given(rope.divisors)
    for index, layer in enumerate(layers):
        for name, source in _layer(home, decoder, layer):
            yield f"blk.{index}.{name}", source


def _layer(home: Home, decoder: Decoder, layer: Layer) -> Iterator[tuple[str, Source]]:
    """Name within the layer and source of its tensors."""
    if layer.attention is not None:
        block = layer.attention.block
        if isinstance(block, Attention):
            yield from _attention(home, block)
        else:
            yield from _no_attention(home, decoder)
        yield from _bias("attn_output", layer.attention)
    if layer.feed_forward is not None:
        block, hidden = layer.feed_forward.block, decoder.hidden
        if isinstance(block, FeedForward):
            yield "ffn_norm.weight", Stored(block.norm)
            yield from _linear("ffn_gate", block.gate)
            yield from _linear("ffn_up", block.up)
            yield "ffn_down.weight", Stored(block.out.weight)
        else:
            yield "ffn_norm.weight", Zeros((hidden,))
            yield "ffn_gate.weight", Zeros((ZERO_CHANNELS, hidden))
            yield "ffn_up.weight", Zeros((ZERO_CHANNELS, hidden))
            yield "ffn_down.weight", Zeros((hidden, ZERO_CHANNELS))
        yield from _bias("ffn_down", layer.feed_forward)


def _attention(home: Home, block: Attention) -> Iterator[tuple[str, Source]]:
    yield "attn_norm.weight", Stored(block.norm)
    turned = (block.heads, block.groups) if home.interleaved else (0, 0)
    if home.fused:
        yield "attn_qkv.weight", Stacked(tuple(Stored(part.weight) for part in (block.query, block.key, block.value)))
    else:
        yield from _linear("attn_q", block.query, turned[0])
        yield from _linear("attn_k", block.key, turned[1])
        yield from _linear("attn_v", block.value)
    for name, norm in (("attn_q_norm", block.query_norm), ("attn_k_norm", block.key_norm)):
        if norm is not None:
            yield f"{name}.weight", Stored(norm)
    yield "attn_output.weight", Stored(block.out.weight)


def _no_attention(home: Home, decoder: Decoder) -> Iterator[tuple[str, Source]]:
    """One head of zeros."""
    hidden, dim = decoder.hidden, decoder.head_dim
    yield "attn_norm.weight", Zeros((hidden,))
    if home.fused:
        yield "attn_qkv.weight", Zeros((3 * dim, hidden))
        yield "attn_q_norm.weight", Zeros((dim,))
        yield "attn_k_norm.weight", Zeros((dim,))
    else:
        for name in "qkv":
            yield f"attn_{name}.weight", Zeros((dim, hidden))
    yield "attn_output.weight", Zeros((hidden, dim))


def _linear(name: str, linear: Linear, heads: int = 0) -> Iterator[tuple[str, Source]]:
    yield f"{name}.weight", Stored(linear.weight, heads)
    if linear.bias is not None:
        yield f"{name}.bias", Stored(linear.bias, heads)


def _bias(name: str, part: Part) -> Iterator[tuple[str, Source]]:
    """What a sub-block adds whatever it computes."""
    if part.biases:
        yield f"{name}.bias", Sum(tuple(Stored(bias) for bias in part.biases))


def _repairs(decoder: Decoder, layers: Sequence[Layer]) -> Iterator[str]:
    before, after = len(decoder.sub_blocks) // 2, len(layers)
    gone = sum(1 for block in decoder.sub_blocks if not block.width)
    if gone:
        yield f"{gone} sub-blocks have gone from the model; what is left of its {before} layers makes {after} layers."
    empty = [part for layer in layers for part in (layer.attention, layer.feed_forward) if part and part.block is None]
    if empty:
        yield f"{len(empty)} sub-blocks of zeros stand where llama.cpp cannot do without one."
    if decoder.window is not None:
        yield (
            f"Attention sees {decoder.window} tokens in this model and all of them in llama.cpp, so the file asks for "
            f"no more than {decoder.context} tokens of context."
        )
