"""Which of llama.cpp's architectures takes a model, as its loaders and graphs are written.

Most read the widths of layer 0 for all layers. ``deci`` and ``openelm`` read them layer by layer, and compute what
LLaMA, Mistral and Qwen2, respectively Qwen3, compute. What ``deci`` does with a layer that lacks a sub-block is known
from trying: without feed-forward network it loses the attention silently, or aborts in the last layer; without
attention in layer 0 it does not load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optimum_grail.errors import ArchitectureError
from optimum_grail.export.decoder import Attention, Decoder, FeedForward, Linear
from optimum_grail.export.packing import Layer, Part, fill, heads_of

EVERYWHERE = frozenset({"query", "key", "value", "attention", "gate", "up", "feed_forward"})
ZERO_CHANNELS = 32
"""Channels of a feed-forward network that adds nothing: a row of every type of weights."""


@dataclass(frozen=True)
class Home:
    """One of llama.cpp's architectures.

    Args:
        name: as ``general.architecture`` has it.
        families: of models whose layers it computes.
        biases: which of a layer's linear layers may have one; ``"attention"`` and ``"feed_forward"`` are the outputs.
        per_layer: whether widths may differ between layers.
        interleaved: whether rotary pairs are neighbours; else they are half a head apart, as in transformers.
        scaled: whether frequencies may be scaled.
        empty: whether a layer other than the first may be without attention.
        fused: whether q, k and v are one tensor.
        untied: whether the output layer may have weights of its own.
        square: whether the heads have to be as wide as the stream.
    """

    name: str
    families: tuple[str, ...]
    biases: frozenset[str] = frozenset()
    per_layer: bool = False
    interleaved: bool = False
    scaled: bool = False
    empty: bool = False
    fused: bool = False
    untied: bool = True
    square: bool = False


HOMES = (
    Home("llama", ("llama", "mistral"), EVERYWHERE, interleaved=True, scaled=True),
    Home("qwen2", ("qwen2",), frozenset({"query", "key", "value"}), square=True),
    Home("qwen3", ("qwen3",), frozenset({"query", "key", "value"})),
    Home("deci", ("llama", "mistral", "qwen2"), EVERYWHERE, per_layer=True, interleaved=True, scaled=True, empty=True),
    Home("openelm", ("qwen3",), per_layer=True, fused=True, untied=False),
)
"""The first that takes a model is taken: a family's own architecture where it can be."""


def choose_home(decoder: Decoder, layers: Sequence[Layer]) -> tuple[Home, tuple[Layer, ...]]:
    """The architecture for a model, and its layers with what that needs in them.

    Args:
        decoder: the model.
        layers: as of :func:`optimum_grail.export.packing.pack`.

    Raises:
        ArchitectureError: none takes it; the message says what stands against each.
    """
    reasons = []
    for home in HOMES:
        if decoder.family not in home.families:
            continue
        missing = range(len(layers)) if not home.empty else range(min(1, len(layers)))
        filled = fill(layers, missing)
        reason = _against(home, decoder, layers, filled)
        if not reason:
            return home, filled
        reasons.append(f"{home.name!r} {reason}")
    raise ArchitectureError(
        f"None of llama.cpp's architectures takes this {decoder.family} model: {'; '.join(reasons)}. Compress with "
        "--allocation uniform, which gives all layers the same widths, or leave out what stands against it."
    )


def _against(home: Home, decoder: Decoder, layers: Sequence[Layer], filled: Sequence[Layer]) -> str:
    """Why a home does not take a model; empty if it does."""
    shapes = {widths(layer) for layer in filled}
    if not layers:
        return "has no models without layers"
    if not home.per_layer and (
        len(shapes) > 1 or any(None in (layer.attention, layer.feed_forward) for layer in layers)
    ):
        return "has one width for all layers, and here they differ"
    if home.square and heads_of(filled[0])[0] * decoder.head_dim != decoder.hidden:
        return f"has heads as wide as the stream, {decoder.hidden} features"
    if not home.untied and decoder.head is not None:
        return "has no output layer apart from the embeddings"
    if not home.scaled and decoder.rope.is_scaled:
        return "has no frequencies of the model's own (rope_parameters)"
    if foreign := sorted(biased(filled) - home.biases):
        return f"has no biases of {', '.join(foreign)}"
    return ""


def widths(layer: Layer) -> tuple[int, int, int]:
    """Query heads, key-value heads and channels of a layer of :func:`choose_home`."""
    part = layer.feed_forward
    channels = 0 if part is None else part.block.width if isinstance(part.block, FeedForward) else ZERO_CHANNELS
    return (*heads_of(layer), channels)


def biased(layers: Sequence[Layer]) -> set[str]:
    """Which linear layers have biases anywhere, by the words of :class:`Home`."""
    found: set[str] = set()
    for layer in layers:
        for word, part in (("attention", layer.attention), ("feed_forward", layer.feed_forward)):
            if part is not None and part.biases:
                found.add(word)
        found |= {word for word, linear in _inner(layer) if linear.bias is not None}
    return found


def _inner(layer: Layer) -> list[tuple[str, Linear]]:
    found: list[tuple[str, Linear]] = []
    for part in (layer.attention, layer.feed_forward):
        block = part.block if isinstance(part, Part) else None
        if isinstance(block, Attention):
            found += [("query", block.query), ("key", block.key), ("value", block.value)]
        elif isinstance(block, FeedForward):
            found += [("gate", block.gate), ("up", block.up)]
    return found
