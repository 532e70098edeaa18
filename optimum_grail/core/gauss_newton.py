"""One Gauss-Newton step for the weights of producers, by conjugate gradients: no Gram matrix, no ``K²`` memory.

With derivatives ``J_i`` and changes ``P_i`` of the producers' weights the consumer's output moves, to first order, by

    A(P) = W · Σ_i J_i ∘ (x_i P_iᵀ)

and the step solves ``min ‖R - A(P)‖² + μ n Σ_i ‖S_i P_i C_i^½‖²`` with the residual ``R``, the inputs' second moments
``C_i = x_iᵀ x_i / n`` and ``S_i`` the root mean square of ``J_i`` times the norm of the unit's column of ``W``. The
damping is thus on what the change does to the output, free of units. In the variables ``S P C^½`` the system is also so
well conditioned that few iterations do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from optimum_grail.core.moments import Moments
from optimum_grail.core.producers import Changes, Rows
from optimum_grail.core.products import Product

FLOOR = 1e-4
"""What is added to the inputs' second moments, relative to each and to their mean: directions that are hardly seen."""


@dataclass(frozen=True)
class _Side:
    """One producer in whitened variables.

    Args:
        product: how its outputs follow from its weight.
        inputs: whitened.
        derivatives: of the consumer's features by the producer's outputs.
        whiten: ``C^-½``, ``[C, C]``.
        scale: ``1 / S``, one per unit.
        shape: of its weight.
    """

    product: Product
    inputs: Tensor
    derivatives: Tensor
    whiten: Tensor
    scale: Tensor
    shape: tuple[int, ...]

    def forward(self, change: Tensor) -> Tensor:
        """How the consumer's features move."""
        return self.product(self.inputs, self._scaled(change)).mul_(self.derivatives)

    def adjoint(self, features: Tensor) -> Tensor:
        """The transpose of :meth:`forward`."""
        return self._scaled(self.product.by_weight(self.inputs, features * self.derivatives, self.shape))

    def unwhitened(self, change: Tensor) -> Tensor:
        """The change of the weight itself."""
        return self.product.mixed(self._scaled(change), self.whiten, 1)

    def _scaled(self, change: Tensor) -> Tensor:
        return change * self.scale.reshape(-1, *[1] * (change.dim() - 1))


@dataclass(frozen=True)
class Step:
    """The least-squares problem of one step.

    Args:
        sides: the producers.
        consume: how the consumer's outputs follow from its weight.
        weight: the consumer's.
        features: shape of what enters it.
        damping: ``μ n``.
    """

    sides: Sequence[_Side]
    consume: Product
    weight: Tensor
    features: tuple[int, ...]
    damping: float

    @classmethod
    def of(cls, rows: Rows, produce: Sequence[Product], consume: Product, weight: Tensor, damping: float) -> Step:
        """Prepare the step.

        Args:
            rows: to fit on.
            produce: of each producer.
            consume: of the consumer.
            weight: the consumer's, float32.
            damping: ``μ``, at least 0.
        """
        reach = weight.movedim(1, 0).flatten(1).square().sum(1)
        known: dict[int, tuple[Tensor, Tensor]] = {}
        sides = []
        for product, inputs, derivatives in zip(produce, rows.inputs, rows.derivatives, strict=True):
            if id(inputs) not in known:  # producers that share their input share what it is whitened to
                whiten = _whitening(inputs, product)
                known[id(inputs)] = product.mixed(inputs, whiten, product.axis), whiten
            white, whiten = known[id(inputs)]
            scale = (product.mean_square(derivatives) * reach).sqrt().add(1e-12).reciprocal()
            shape = _weight_shape(product, derivatives, inputs)
            sides.append(_Side(product, white, derivatives, whiten, scale, shape))
        count = rows.target.numel() / rows.target.shape[consume.axis]
        return cls(sides, consume, weight, tuple(rows.features.shape), damping * count)

    def path(self, residual: Tensor, iterations: int) -> Iterator[Changes]:
        """The changes after each iteration, at most so many: from what many rows ask for to what fits these best.

        Args:
            residual: what the consumer's output lacks, shaped like the target.
            iterations: conjugate gradient steps; fewer where nothing is left to gain.
        """
        left = self._adjoint(residual)
        found = [torch.zeros_like(part) for part in left]
        direction = [part.clone() for part in left]
        size = start = _dot(left, left)
        for _ in range(iterations):
            if size <= 1e-6 * start:
                return
            curved = self._adjoint(self._forward(direction))
            curved = [part.add_(move, alpha=self.damping) for part, move in zip(curved, direction, strict=True)]
            length = size / max(_dot(direction, curved), 1e-30)
            for part, rest, move, bend in zip(found, left, direction, curved, strict=True):
                part.add_(move, alpha=length)
                rest.sub_(bend, alpha=length)
            before, size = size, _dot(left, left)
            direction = [rest.add(move, alpha=size / before) for rest, move in zip(left, direction, strict=True)]
            yield [side.unwhitened(part) for side, part in zip(self.sides, found, strict=True)]

    def _forward(self, changes: Changes) -> Tensor:
        moved = self.sides[0].forward(changes[0])
        for side, change in zip(self.sides[1:], changes[1:], strict=True):
            moved.add_(side.forward(change))
        return self.consume(moved, self.weight)

    def _adjoint(self, outputs: Tensor) -> list[Tensor]:
        features = self.consume.by_input(self.weight, outputs, self.features)
        return [side.adjoint(features) for side in self.sides]


def moved(rows: Rows, produce: Sequence[Product], consume: Product, weight: Tensor, changes: Changes) -> Tensor:
    """What ``changes`` do to the consumer's outputs on ``rows``, to first order; shaped like the target."""
    sides = zip(produce, rows.inputs, rows.derivatives, changes, strict=True)
    parts = [derivatives * product(inputs, change) for product, inputs, derivatives, change in sides]
    return consume(reduce(add, parts), weight)


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return sum(float((a * b).sum(dtype=torch.float64)) for a, b in zip(one, other, strict=True))


def _weight_shape(product: Product, outputs: Tensor, inputs: Tensor) -> tuple[int, ...]:
    return (outputs.shape[product.axis], inputs.shape[product.axis], *product.taps)


def _whitening(inputs: Tensor, product: Product) -> Tensor:
    """``C^-½`` of the inputs' second moments ``C``, ``[C, C]``."""
    rows = inputs.movedim(product.axis, -1).flatten(0, -2)
    gram = Moments.of(rows).gram / len(rows)
    diagonal = gram.diagonal()
    gram.diagonal().add_(FLOOR * (diagonal + diagonal.mean()).clamp(min=1e-30))
    values, vectors = torch.linalg.eigh(gram)
    whiten: Tensor = (vectors * values.clamp(min=1e-30).rsqrt()) @ vectors.T
    return whiten.to(inputs.dtype)
