"""How often the router chose them: the plainest measure of a mixture's experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.core.contracts import Selector
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.selectors import SELECTORS


@SELECTORS.register
@dataclass(frozen=True)
class Frequency(Selector):
    """Keep the experts to which most calibration tokens were sent."""

    needs: ClassVar[frozenset[Need]] = frozenset({"routing"})

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to the ``keep`` experts chosen most often."""
        return Selection.by_score(problem.routed.tokens, keep)
