"""None: the producers that stay are left as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.core.contracts import Refit
from optimum_grail.core.producers import ProducerProblem, Refitted
from optimum_grail.refits import REFITS


@REFITS.register
@dataclass(frozen=True)
class NoRefit(Refit):
    """Leave the producers that stay as they are: only consumers are refitted."""

    changes_producers: ClassVar[bool] = False

    def __call__(self, problem: ProducerProblem) -> Refitted:
        """No changes."""
        return Refitted(None, 1.0, 1.0)
