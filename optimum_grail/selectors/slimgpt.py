"""SlimGPT: batched greedy pruning, heads one by one, channels in groups that get smaller."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from optimum_grail.core import papers
from optimum_grail.core.contracts import Selector
from optimum_grail.core.group_elimination import eliminate_in_groups, mean_damped
from optimum_grail.core.preset import GREEDY, SURGEON, Preset
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.errors import ConfigError
from optimum_grail.selectors import SELECTORS
from optimum_grail.selectors._elimination import by_elimination, check_positive


@SELECTORS.register
@dataclass(frozen=True)
class Slimgpt(Selector):
    """Remove units by their surgeon's cost, with an exact update between groups (SlimGPT, Ling et al. 2024, sec. 3).

    Heads (units of several features) go one at a time, by exact costs of their blocks. Channels go in groups of
    dynamic size: each group is a share of what is still to go, so groups are large first and single units last. (The
    paper names the principle; the share is ours.) The ratio that grows with depth is the allocation ``incremental``.

    Args:
        damping: ridge relative to the mean of the features' second moments, positive and finite.
        share: share in (0, 1] of the channels still to go that one group removes.

    Raises:
        ConfigError: ``damping`` is not a positive number, or ``share`` is outside (0, 1].
    """

    damping: float = 1e-2
    share: float = 0.125
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    paper: ClassVar[str | None] = papers.SLIMGPT
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            name="slimgpt",
            summary="Surgeon's pruning in groups that get smaller, weights updated; deeper layers lose more.",
            paper="Ling et al. 2024 (SlimGPT)",
            selector="slimgpt",
            compensator=SURGEON,
            allocation="incremental",
            within_block="sequential",
            cost=GREEDY,
        ),
        Preset(
            name="slimgpt+grail",
            summary="SlimGPT's selection and widths, GRAIL's readout.",
            paper="Tang et al. 2026 (GRAIL)",
            selector="slimgpt",
            compensator="grail",
            allocation="incremental",
            within_block="sequential",
            cost=GREEDY,
        ),
    )

    def __post_init__(self) -> None:
        check_positive("slimgpt", "damping", self.damping)
        if not isinstance(self.share, (int, float)) or not 0 < self.share <= 1:
            raise ConfigError(f"slimgpt share is {self.share!r}; expected a number in (0, 1], for example 0.125.")

    def sizes(self, remove: int, span: int) -> list[int]:
        """How many units each group removes, ``remove`` in all."""
        found: list[int] = []
        while remove > 0:
            found.append(1 if span > 1 else math.ceil(remove * self.share))
            remove -= found[-1]
        return found

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to ``keep`` units."""
        gram = problem.measured.moments.gram
        weight, damped = mean_damped(problem.weight.to(gram), gram, self.damping)
        sizes = self.sizes(problem.units - keep, problem.span)
        return by_elimination(problem.units, eliminate_in_groups(weight, damped, problem.units, sizes))
