"""The consumer's new weight and bias."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Readout:
    """What a compensator returns.

    Args:
        weight: float64, shape ``[O, slots * features_per_unit]``: the 2-D view of the consumer's new weight.
        bias: float64, shape ``[O]``: what is *added* to the consumer's bias; ``None`` leaves the bias alone.
    """

    weight: Tensor
    bias: Tensor | None = None
