"""What the model loses without each of its rotation pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import RotaryHeads
from optimum_grail.core.head_size import dimensions_of
from optimum_grail.signals import SIGNALS, Signal, Tensors, Visit, Work
from optimum_grail.streams.hooks import hooked

Silence = Callable[[nn.Module, object, Tensor], Tensor]


@SIGNALS.register
@dataclass(frozen=True)
class RotationPairs(Signal):
    """Loss against the dense outputs on the few batches when the queries of all heads and layers are zero in one
    rotation pair; float64 ``[pairs]``, by the path of the sub-model whose config all its layers share."""

    tail: ClassVar[bool] = True

    def block(self, visit: Visit, sums: Tensors, found: Tensors) -> Tensors:
        """At the first block, the losses of all blocks of the stack together; those of several stacks add up."""
        stack = visit.dense.layout.of_stack(visit.stack)
        heads = [group.inside for group in stack if group.inside is not None and group.units]
        if visit.position or not heads:
            return {}
        losses = torch.tensor([_loss(visit, heads, pair) for pair in range(heads[0].size // 2)], dtype=torch.float64)
        owner = visit.stack.owner
        return {owner: found[owner] + losses if owner in found else losses}

    def cost(self, work: Work) -> float:
        """A pass of the few batches for every pair."""
        return work.pairs * (work.probe + work.outputs)


def _loss(visit: Visit, heads: list[RotaryHeads], pair: int) -> float:
    model = visit.dense.model
    after = [(model.get_submodule(inside.query), _without(inside.size, pair)) for inside in heads]
    with hooked(after=after):
        return visit.damage()


def _without(size: int, pair: int) -> Silence:
    """A hook that sets one pair of every head to zero in what a projection puts out, ``[..., heads * size]``."""
    gone = dimensions_of(torch.tensor([pair]), size)

    def hook(_: nn.Module, args: object, output: Tensor) -> Tensor:
        """The output without the pair."""
        return output.unflatten(-1, (-1, size)).index_fill(-1, gone.to(output.device), 0.0).flatten(-2)

    return hook
