"""What a method that changes producers sees: rows of data from the producers' inputs to the consumer's target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from optimum_grail.core.products import Product

Changes = Sequence[Tensor]
"""What is added to the weight of every producer: ``[units, C]`` of a linear layer, with one more column where it has a
bias, ``[units, C, kh, kw]`` of a convolution. Float32."""


@dataclass(frozen=True)
class Rows:
    """Calibration rows of one group. Between producers and consumer every unit is by itself: feature ``k`` of the
    consumer is a function of output ``k`` of every producer.

    Args:
        inputs: what enters each producer, with a column of ones where it has a bias; float32, ``[N, C]`` or, for
            convolutions, ``[B, C, H, W]``.
        derivatives: of the consumer's features by each producer's outputs, shaped like ``features``.
        features: what enters the consumer, float32, ``[N, K]`` or ``[B, K, H, W]``.
        target: what the consumer should make of them, without its bias; ``[N, O]`` or ``[B, O, H, W]``.
    """

    inputs: Sequence[Tensor]
    derivatives: Sequence[Tensor]
    features: Tensor
    target: Tensor


@dataclass(frozen=True)
class ProducerProblem:
    """One compressed group with its data.

    Args:
        name: the group's name, for messages.
        weight: the consumer's, as compensated: ``[O, K]`` or ``[O, K, kh, kw]``, float32.
        affine: whether the consumer can take a bias.
        produce: of each producer, how its outputs follow from its weight.
        consume: of the consumer likewise.
        look: rows to fit on and rows to judge by, with changes of the producers' weights or ``None`` for none. A pass
            of the data through the block.
    """

    name: str
    weight: Tensor
    affine: bool
    produce: Sequence[Product]
    consume: Product
    look: Callable[[Changes | None], tuple[Rows, Rows]]


@dataclass(frozen=True)
class Refitted:
    """What became of a group's producers.

    Args:
        changes: of their weights; ``None``: nothing better was found.
        before: error of the refitted consumer on the rows it is judged by, relative to the target's variance.
        after: the same with the changes.
    """

    changes: Changes | None
    before: float
    after: float
