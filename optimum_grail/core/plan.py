"""A compression as a value: what happens to every group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.head_size import HeadReduction
from optimum_grail.core.producers import Changes
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction


@dataclass(frozen=True)
class GroupPlan:
    """One group's reduction and readout, with what the methods had to say about it.

    Args:
        group: the group.
        reduction: how its producers shrink.
        readout: the consumer's new weight and bias; ``None`` once applied, when the model holds it.
        order: removal order of the units (first removed first), int64, if the selector has one.
        curve: cumulative damped error after each removal of ``order``, relative to dropping everything, or ``None``.
        diagnostics: JSON values: relative errors, ridge, drift strength, whether the gate accepted the fit.
        changes: what is added to the weights of the producers that make something of an input, in their order, after
            the reduction; ``None``: nothing, or once applied.
        refitted: whether producers were changed beyond the reduction.
        inside: how its heads shrink inside before their number does; ``group`` is what that leaves. A plan of that
            alone has neither readout nor a reduction but the identity, and ``group`` is as it was before.
    """

    group: ChannelGroup
    reduction: Reduction
    readout: Readout | None
    order: Tensor | None = None
    curve: Tensor | None = None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    changes: Changes | None = None
    refitted: bool = False
    inside: HeadReduction | None = None

    @property
    def copies(self) -> int:
        """How many experts the reduction is of, where every one has units of its own; else 1."""
        return len(self.reduction.assignment) // self.group.units if self.group.copies > 1 else 1

    @property
    def slots(self) -> int:
        """Units kept, by each expert where every one has its own."""
        return self.reduction.slots // max(self.copies, 1)


class Plan(Mapping[str, GroupPlan]):
    """Group name to :class:`GroupPlan`, in the order of the model; immutable."""

    def __init__(self, groups: Iterable[GroupPlan]) -> None:
        self._groups = {plan.group.name: plan for plan in groups}

    def __getitem__(self, name: str) -> GroupPlan:
        return self._groups[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def widths(self) -> dict[str, int]:
        """Units kept per group."""
        return {name: plan.slots for name, plan in self._groups.items()}
