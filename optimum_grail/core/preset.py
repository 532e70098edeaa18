"""A preset: a named combination of methods, as the file of the method at its centre states it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

FORWARD = "one forward pass"
SOLVE = "one forward pass, one solve per layer"
GREEDY = "one forward pass, one inverse and elimination per layer"
SURGEON = "grail:anchor=naive,ridge=0.01"
"""The optimal brain surgeon's weight update with one hundredth of the mean diagonal as damping."""


@dataclass(frozen=True)
class Preset:
    """A named combination of methods.

    Args:
        name: what the user writes.
        summary: what it does, in a sentence or two.
        paper: where it was published.
        selector, compensator, allocation, refit, expert_selector: the methods, each with its options:
            ``NAME:key=value,...``.
        within_block: ``"joint"`` or ``"sequential"``.
        needs: what has to be at hand.
        cost: what it costs beyond loading and saving.
        works: where it works.
    """

    name: str
    summary: str
    paper: str
    selector: str
    compensator: str
    allocation: str = "uniform"
    refit: str = "none"
    within_block: str = "joint"
    expert_selector: str = "reap"
    needs: str = "calibration data"
    cost: str = FORWARD
    works: str = "everywhere"

    @property
    def values(self) -> Mapping[str, str]:
        """The configuration fields it sets; a field that the user sets wins over it."""
        return MappingProxyType(
            {
                "selector": self.selector,
                "compensator": self.compensator,
                "allocation": self.allocation,
                "refit": self.refit,
                "within_block": self.within_block,
                "expert_selector": self.expert_selector,
            }
        )
