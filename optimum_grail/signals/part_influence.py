"""How much each sub-block changes the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from optimum_grail.signals import SIGNALS, Seen, Signal, Tensors, Visit
from optimum_grail.signals._influence import cosines, influence
from optimum_grail.streams.probe import Wanted


@SIGNALS.register
@dataclass(frozen=True)
class PartInfluence(Signal):
    """``1 - mean cos`` of the residual sum before and after each sub-block that can go altogether, by its group's name;
    float64 scalars."""

    wanted: ClassVar[Wanted | None] = Wanted(output=True, stream=True)

    def batch(self, seen: Seen) -> Tensors:
        """Cosines of the stream without and with what a sub-block adds."""
        found: dict[str, Tensor] = {}
        for name, record in seen.records.items():
            if record.stream is not None and record.output is not None:
                found[name] = cosines(record.stream - record.output, record.stream, seen.mask)
        return found

    def block(self, visit: Visit, sums: Tensors, found: Tensors) -> Tensors:
        """The influence of every sub-block."""
        return {group.name: influence(sums.get(group.name)) for group in visit.groups if not group.fewest}
