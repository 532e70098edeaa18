"""What every fitted compensator tells about its readout."""

from __future__ import annotations

from typing import Any

from optimum_grail.core.problem import Compensation
from optimum_grail.core.readout import Readout
from optimum_grail.core.solve import NormalEquations


def with_errors(equations: NormalEquations, readout: Readout, **more: Any) -> Compensation:
    """``readout`` with its error and that of plain pruning, relative to dropping everything, and what ``more`` says."""
    scale = max(equations.variance, 1e-300)
    errors = {
        "plain_error": equations.loss(equations.plain) / scale,
        "fit_error": equations.loss(readout) / scale,
    }
    return Compensation(readout, errors | more)
