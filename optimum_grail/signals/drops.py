"""The damage of leaving a block out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from optimum_grail.signals import SIGNALS, Signal, Tensors, Visit, Work


@SIGNALS.register
@dataclass(frozen=True)
class Drops(Signal):
    """Rise of the calibration loss without a block, by its path, where the stock config can say the number of blocks;
    float64 scalars."""

    tail: ClassVar[bool] = True

    def block(self, visit: Visit, sums: Tensors, found: Tensors) -> Tensors:
        """One short forward pass that passes the block by."""
        if not visit.stack.spec.depth_field:
            return {}
        return {visit.path: torch.tensor(visit.damage(without=True), dtype=torch.float64)}

    def cost(self, work: Work) -> float:
        """Half the model on the few batches for every block."""
        return work.blocks * (work.probe / 2 + work.outputs)
