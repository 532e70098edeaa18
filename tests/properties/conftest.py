"""Random problems for the laws, with the explicit rows that statistics are sums of."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from optimum_grail.core.moments import Moments, Statistics, Subset, TargetMoments
from optimum_grail.core.problem import GroupProblem
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.routing import Routing
from optimum_grail.core.solve import NormalEquations

settings.register_profile("laws", deadline=None, max_examples=25, print_blob=True)
settings.load_profile("laws")


@dataclass(frozen=True)
class Case:
    """Rows ``s`` ``[N, F]``, drift ``d`` ``[N, O]`` and a consumer ``W`` ``[O, F]``.

    All entries of rows and drift are multiples of 1/8 of size at most 4, so that float32 products and their sums are
    exact and laws can be checked to float64 precision.
    """

    units: int
    rows: Tensor
    drift: Tensor
    weight: Tensor
    keep: Tensor
    clusters: Tensor

    @property
    def moments(self) -> Moments:
        return Moments.of(self.rows)

    @property
    def target(self) -> TargetMoments:
        return TargetMoments.of(self.drift, self.rows)

    def reduction(self, fold: bool = False) -> Reduction:
        return Reduction.fold(self.clusters) if fold else Reduction.prune(self.units, self.keep)

    def equations(self, drift: bool, fold: bool = False) -> NormalEquations:
        return NormalEquations.of(self.weight, self.moments, self.target if drift else None, self.reduction(fold))

    def loss(self, readout: Readout, drift: bool, fold: bool = False) -> float:
        """``Σ ‖y* - W' z - c‖²`` row by row."""
        span = self.rows.shape[1] // self.units
        rows = self.rows.double()
        wanted = rows @ self.weight.T + (self.drift.double() if drift else 0.0)
        got = self.reduction(fold).encode_columns(rows, span) @ readout.weight.T
        return float((wanted - got - (0.0 if readout.bias is None else readout.bias)).square().sum())

    def statistics(self, parts: int = 1, drift: bool = True) -> Statistics:
        """All rows as fit rows, or one row in five held out."""
        held = torch.arange(len(self.rows)) % 5 == 4 if parts == 2 else torch.zeros(len(self.rows), dtype=torch.bool)
        fit, rest = self.part(~held), self.part(held)
        found = (fit,) if parts == 1 else (fit, rest)
        return Statistics(tuple(Subset(part.moments, part.target if drift else None) for part in found))

    def problem(self, owns_bias: bool = True, drift: bool = True, parts: int = 2) -> GroupProblem:
        """The case with all that any method may ask for."""
        generator = torch.Generator().manual_seed(len(self.rows))
        return GroupProblem(
            "g",
            self.units,
            self.weight,
            (torch.randn(self.units, 6, generator=generator, dtype=torch.float64),),
            self.statistics(parts, drift),
            owns_bias,
            mask_gradients=torch.randn(9, self.units, generator=generator, dtype=torch.float64),
            block_gradients=torch.rand(self.weight.shape, generator=generator, dtype=torch.float64),
            routing=Routing(*torch.rand(3, self.units, generator=generator, dtype=torch.float64), len(self.rows)),
        )

    def part(self, mask: Tensor) -> Case:
        return Case(self.units, self.rows[mask], self.drift[mask], self.weight, self.keep, self.clusters)


def grid(generator: torch.Generator, *shape: int) -> Tensor:
    """Random multiples of 1/8 in [-2, 2], float32."""
    return torch.randint(-16, 17, shape, generator=generator) / 8


def build(seed: int, *, count: int | None = None, spans: tuple[int, ...] = (1, 2, 3)) -> Case:
    """A random case whose sizes follow from ``seed`` too; features are correlated and not centred."""
    sizes, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    units, span, outputs = sizes.randint(3, 7), sizes.choice(spans), sizes.randint(1, 5)
    width, count = units * span, count or sizes.randint(8 * units * span, 200)
    shared = grid(generator, count, 1).round()
    rows = (grid(generator, count, width) + shared * (torch.rand(width, generator=generator) < 0.5)).clamp(-4, 4)
    rows = rows + (torch.rand(width, generator=generator) < 0.3).float()
    drift = (rows[:, :1] / 2 + grid(generator, count, outputs) / 4).mul(8).round() / 8
    weight = torch.randn(outputs, width, generator=generator, dtype=torch.float64)
    keep = torch.randperm(units, generator=generator)[: sizes.randint(1, units)]
    slots = sizes.randint(1, units)
    clusters = torch.cat([torch.arange(slots), torch.randint(0, slots, (units - slots,), generator=generator)])
    return Case(units, rows, drift, weight, keep, clusters[torch.randperm(units, generator=generator)])


@pytest.fixture(scope="session", name="build")
def _build() -> Callable[..., Case]:
    return build
