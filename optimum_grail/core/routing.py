"""What calibration tells of a mixture's experts as wholes: how often they are chosen and how much they put out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Routing:
    """Sums over the calibration tokens that a router sent to each of ``E`` experts; padding is not counted.

    Args:
        tokens: how many there were, float64, ``[E]``.
        gates: sum of their gates ``g``, float64, ``[E]``.
        outputs: ``Σ g ‖f‖``, where ``f`` is what the expert puts out for a token before its gate, float64, ``[E]``.
        count: calibration tokens, whether sent to an expert or not.
    """

    tokens: Tensor
    gates: Tensor
    outputs: Tensor
    count: int
