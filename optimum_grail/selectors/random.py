"""Random selection: the baseline that every score has to beat."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch

from optimum_grail.core.contracts import Selector
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.selectors import SELECTORS


@SELECTORS.register
@dataclass(frozen=True)
class Random(Selector):
    """Keep units at random, reproducibly for a seed and a group's name."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to ``keep`` random units."""
        generator = torch.Generator().manual_seed(problem.seed + zlib.crc32(problem.name.encode()))
        return Selection.by_score(torch.rand(problem.units, generator=generator), keep)
