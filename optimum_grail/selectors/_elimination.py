"""What the selectors of the optimal brain surgeon's family share."""

from __future__ import annotations

import math

from torch import Tensor

from optimum_grail.core.elimination import Elimination
from optimum_grail.core.problem import Selection
from optimum_grail.core.reduction import Reduction
from optimum_grail.errors import ConfigError


def check_positive(method: str, name: str, value: float) -> None:
    """Refuse an option that is not a positive number.

    Raises:
        ConfigError: names method, option and value.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ConfigError(f"{method} {name} is {value!r}; expected a positive number, for example 1e-2.")


def by_removal(units: int, order: Tensor, curve: Tensor | None = None) -> Selection:
    """The selection that is left of ``units`` units after those of ``order`` (int64) went."""
    gone = set(order.tolist())
    kept = [unit for unit in range(units) if unit not in gone]
    return Selection(Reduction.prune(units, order.new_tensor(kept)), order, curve)


def by_elimination(units: int, result: Elimination) -> Selection:
    """The selection that a run leaves, with the error curve relative to dropping everything."""
    return by_removal(units, result.order, result.errors / max(result.total, 1e-300))
