"""Sums of a mixture's experts one by one, where those of all together would not fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.moments import Statistics
from optimum_grail.streams.collect import Collector
from optimum_grail.streams.probe import Record, fits


@dataclass
class ExpertCollector:
    """A :class:`Collector` for every one of some experts, of the rows that the router sends there.

    Args:
        group: the experts.
        bank: the module that holds them.
        parts: one for each, by its number.
    """

    group: ChannelGroup
    bank: nn.Module
    parts: dict[int, Collector]

    @classmethod
    def of(cls, group: ChannelGroup, whole: Collector, experts: Sequence[int]) -> ExpertCollector:
        """Empty, for ``experts``; ``whole`` says how."""
        return cls(group, whole.consumer, {e: replace(whole, moments={}, targets={}, offsets={}) for e in experts})

    def add(
        self,
        student: Record,
        dense: Record | None,
        mask: Tensor | None,
        subset: int | None,
        unfolded: Record | None = None,
    ) -> None:
        """Add one batch, as :meth:`Collector.add` does."""
        if student.routed is None:
            return
        for expert, part in self.parts.items():
            features, here = student.routed.share(self.bank, expert)
            real = here & mask.bool().to(here.device) if fits(mask, features) else here
            part.add(replace(student, features=features, routed=None), dense, real, subset, unfolded)

    def rows(self, expert: int) -> int:
        """How many rows were sent to ``expert``."""
        return sum(sums.count for sums in self.parts[expert].moments.values())

    def statistics(self, expert: int, crossed: bool) -> Statistics:
        """The sums of one expert, handed over; errors as of :meth:`Collector.statistics`."""
        return self.parts.pop(expert).statistics(crossed)
