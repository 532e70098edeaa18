"""What selectors and compensators see and return: values, no ``nn.Module``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from optimum_grail.core.moments import Statistics
from optimum_grail.core.needs import Need as Need
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.routing import Routing
from optimum_grail.errors import StatisticsError


@dataclass(frozen=True)
class GroupProblem:
    """One group as numbers.

    Args:
        name: the group's name, for messages and seeds.
        units: number of units.
        weight: the consumer's 2-D weight ``[O, F]``, float64; unit ``u`` owns columns ``[u * span, (u + 1) * span)``.
        producers: one matrix ``[units, …]`` per producer, float64: all the rows of a unit, flattened. It may be made
            whenever it is looked up: few methods read it, and it is as large as the weights.
        statistics: what calibration measured, or ``None`` for data-free methods.
        owns_bias: whether the consumer can take a bias (its own, or a BatchNorm's after it).
        norm: for a consumer followed by BatchNorm: the mean and variance that it expects, ``[O]``, and its epsilon.
        mask_gradients: ``[samples, units]``, float64: per calibration sample, the gradient of the dense model's mean
            loss by a factor on the unit at the consumer's input, at one; or ``None`` if nobody asked for it.
        block_gradients: ``[O, F]``, float64: Euclidean norm over samples of the gradient of the Euclidean norm of the
            block's output by the consumer's weight (a sum, like the moments: no mean); or ``None``.
        seed: seed of this group's random choices.
        routing: of a mixture's experts, what was measured of each as a whole, or ``None`` if nobody asked for it.
    """

    name: str
    units: int
    weight: Tensor
    producers: Sequence[Tensor] = ()
    statistics: Statistics | None = None
    owns_bias: bool = False
    norm: tuple[Tensor, Tensor, float] | None = None
    mask_gradients: Tensor | None = None
    block_gradients: Tensor | None = None
    seed: int = 0
    routing: Routing | None = None

    @property
    def span(self) -> int:
        """Features per unit at the consumer."""
        return self.weight.shape[1] // self.units

    @property
    def measured(self) -> Statistics:
        """The statistics.

        Raises:
            StatisticsError: there are none; the method should declare that it needs them.
        """
        if self.statistics is None:
            raise StatisticsError(f"Group {self.name!r} has no calibration statistics, but the method reads them.")
        return self.statistics

    @property
    def routed(self) -> Routing:
        """What was measured of experts as wholes.

        Raises:
            StatisticsError: nothing was; the method should declare that it needs it, or the units are no experts.
        """
        if self.routing is None:
            raise StatisticsError(
                f"Group {self.name!r} has no routing, but the method reads it: its units must be experts."
            )
        return self.routing

    def per_unit(self, features: Tensor) -> Tensor:
        """Sum a per-feature vector ``[F]`` over the features of each unit; ``[units]``."""
        return features.reshape(self.units, self.span).sum(1)


@dataclass(frozen=True)
class Selection:
    """What a selector returns.

    Args:
        reduction: which units stay, or how they merge.
        order: removal order, int64: at least ``units - slots`` entries, first removed first; or ``None`` (folding).
        curve: float64, ``curve[t]`` is the relative error after ``t`` removals (``curve[0] = 0``), or ``None``.
    """

    reduction: Reduction
    order: Tensor | None = None
    curve: Tensor | None = None

    @classmethod
    def by_score(cls, scores: Tensor, keep: int) -> Selection:
        """Keep the ``keep`` units of largest score ``[units]``; of equal scores the earlier unit stays."""
        order = scores.flip(0).argsort(stable=True).cpu()
        order = len(scores) - 1 - order
        return cls(Reduction.prune(len(scores), order[len(scores) - keep :]), order)


@dataclass(frozen=True)
class Compensation:
    """A readout and what is worth telling about it (JSON values)."""

    readout: Readout
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
