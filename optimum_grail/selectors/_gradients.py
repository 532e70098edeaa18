"""Gradients that the calibration measured, or a message."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from optimum_grail.core.problem import GroupProblem
from optimum_grail.errors import StatisticsError


def gradients(problem: GroupProblem, kind: Literal["mask", "block"]) -> Tensor:
    """The gradients by a mask on the units ``[samples, units]`` or by the consumer's weight ``[O, F]``; float64.

    Raises:
        StatisticsError: nobody measured them; the selector should declare that it needs them.
    """
    found = problem.mask_gradients if kind == "mask" else problem.block_gradients
    if found is None:
        raise StatisticsError(f"Group {problem.name!r} has no {kind} gradients, but the selector reads them.")
    return found
