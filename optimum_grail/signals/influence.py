"""How much each block changes its input."""

from __future__ import annotations

from dataclasses import dataclass

from optimum_grail.signals import SIGNALS, Seen, Signal, Tensors, Visit
from optimum_grail.signals._influence import cosines, influence


@SIGNALS.register
@dataclass(frozen=True)
class Influence(Signal):
    """``1 - mean cos(input, output)`` of each block over the real rows (Men et al. 2024, "ShortGPT", eq. 1), by the
    names of its groups; float64 scalars."""

    def batch(self, seen: Seen) -> Tensors:
        """Cosines of the block's input and output."""
        return {seen.path: cosines(seen.before, seen.after, seen.mask)}

    def block(self, visit: Visit, sums: Tensors, found: Tensors) -> Tensors:
        """The influence, for every group of the block."""
        return {group.name: influence(sums.get(visit.path)) for group in visit.groups}
