"""The three methods of a run, and what they ask of the calibration together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from optimum_grail.core.contracts import Allocation, Compensator, Selector
from optimum_grail.core.problem import Need
from optimum_grail.streams.probe import Wanted

WithinBlock = Literal["sequential", "joint"]


@dataclass(frozen=True)
class Methods:
    """Selector, compensator and allocation of a run.

    Args:
        selector: chooses units.
        compensator: computes readouts.
        allocation: shares the budget out.
        within_block: ``"sequential"``: a block's groups one stage after the other; ``"joint"``: all from one pass
            over the uncompressed block, as the GRAIL authors do.
    """

    selector: Selector
    compensator: Compensator
    allocation: Allocation
    within_block: WithinBlock = "sequential"

    @property
    def needs(self) -> frozenset[Need]:
        """Everything any of them asks for."""
        return self.selector.needs | self.compensator.needs | self.allocation.needs

    @property
    def needs_data(self) -> bool:
        """Whether calibration data has to be there at all."""
        return bool(self.needs)

    @property
    def reads_labels(self) -> bool:
        """Whether any of them asks for gradients of the model's loss."""
        return bool(self.needs & {"mask_gradients", "information"})

    @property
    def fit_needs(self) -> frozenset[Need]:
        """What the fit itself has to measure: nothing for the allocation, and no gradients of the dense model."""
        return (self.selector.needs | self.compensator.needs) - {"mask_gradients"}

    @property
    def wanted(self) -> Wanted:
        """What is compared between the two streams: the consumer's output, or the residual stream behind it."""
        dense = "dense" in self.compensator.needs
        return Wanted(output=dense, stream=not dense)

    @property
    def two_streams(self) -> bool:
        """Whether the dense model runs beside the student during the fit."""
        return bool(self.compensator.needs & {"drift", "dense"})

    @property
    def refits(self) -> bool:
        """Whether consumers that lose nothing are refitted to make up for the drift before them."""
        return self.compensator.refits_whole_groups and self.two_streams
