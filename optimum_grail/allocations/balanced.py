"""Balanced: one width per kind and stack, chosen by error curves and sensitivities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.allocations._curved import Curved


@ALLOCATIONS.register
@dataclass(frozen=True)
class Balanced(Curved):
    """One width per kind for the whole stack, split between the kinds where the predicted damage is least.

    The damage of a group at width ``k`` is predicted as its sensitivity times its error curve at ``k``. Predictions
    fail where damage is huge, so the split is rehearsed against the uniform one.
    """

    tied: ClassVar[bool] = True
