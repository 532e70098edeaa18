"""From sub-blocks, some of which have gone, to the layers that an engine knows: an attention, then a feed-forward
network. The sum that the stream sees stays the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from optimum_grail.export.decoder import Attention, FeedForward, SubBlock


@dataclass(frozen=True)
class Part:
    """A sub-block of a layer.

    Args:
        block: what it computes; ``None``: nothing but its biases.
        biases: names of the tensors whose sum it adds to the stream.
    """

    block: SubBlock | None
    biases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layer:
    """A layer; ``None`` where it has no such sub-block."""

    attention: Part | None
    feed_forward: Part | None


def pack(sub_blocks: Sequence[SubBlock]) -> tuple[Layer, ...]:
    """Leave out what has no width and make layers of the rest, as few as there can be.

    What a sub-block without width adds is its output's bias, a constant: the sub-block before it adds that as well. At
    the very beginning there is none, and an attention that computes nothing adds it.

    Args:
        sub_blocks: in the order in which the stream meets them.
    """
    parts: list[Part] = []
    for block in sub_blocks:
        biases = () if block.out.bias is None else (block.out.bias,)
        if block.width:
            parts.append(Part(block, biases))
        elif parts and biases:
            parts[-1] = replace(parts[-1], biases=parts[-1].biases + biases)
        elif biases:
            parts.append(Part(None, biases))
    layers: list[Layer] = []
    for part in parts:
        if not isinstance(part.block, FeedForward):
            layers.append(Layer(part, None))
        elif layers and layers[-1].feed_forward is None:
            layers[-1] = replace(layers[-1], feed_forward=part)
        else:
            layers.append(Layer(None, part))
    return tuple(layers)


def fill(layers: Sequence[Layer], attention: Iterable[int]) -> tuple[Layer, ...]:
    """Put sub-blocks that add nothing where an engine cannot do without.

    Args:
        layers: as of :func:`pack`.
        attention: the layers that need an attention. All need a feed-forward network.
    """
    needed = set(attention)
    return tuple(
        Layer(
            layer.attention or (Part(None) if index in needed else None),
            layer.feed_forward or Part(None),
        )
        for index, layer in enumerate(layers)
    )


def heads_of(layer: Layer) -> tuple[int, int]:
    """Query and key-value heads of a layer; one of each for an attention that computes nothing."""
    if layer.attention is None:
        return 0, 0
    block = layer.attention.block
    return (block.heads, block.groups) if isinstance(block, Attention) else (1, 1)
