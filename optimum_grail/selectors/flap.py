"""FLAP: units whose features fluctuate least around their mean go, because a bias makes up for a constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from optimum_grail.core import papers
from optimum_grail.core.contracts import Selector
from optimum_grail.core.fluctuation import FluctuationMetric, fluctuation
from optimum_grail.core.preset import Preset
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.errors import ConfigError
from optimum_grail.selectors import SELECTORS


@SELECTORS.register
@dataclass(frozen=True)
class Flap(Selector):
    """Keep the units of largest standardised fluctuation (FLAP, An et al. 2024).

    Args:
        metric: ``"wifv"`` (variance of the feature times squared norm of its column), ``"wifn"`` (root mean square
            times mean absolute column) or ``"ifv"`` (variance alone); see :func:`~optimum_grail.core.fluctuation`.

    Raises:
        ConfigError: another ``metric``.
    """

    metric: FluctuationMetric = "wifv"
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    paper: ClassVar[str | None] = papers.FLAP
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            name="flap",
            summary="Units that fluctuate least go, ranked over the whole model; their means go into biases.",
            paper="An et al. 2024 (FLAP)",
            selector="flap",
            compensator="bias:affine=true",
            allocation="flap",
            cost="two forward passes",
            works="where consumers own biases or the stock config can give them some",
        ),
        Preset(
            name="flap+grail",
            summary="FLAP's selection and widths; consumers refitted by ridge regression, which brings the means back "
            "by itself.",
            paper="Tang et al. 2026 (GRAIL)",
            selector="flap",
            compensator="grail",
            allocation="flap",
            cost="two forward passes, one solve per layer",
        ),
    )

    def __post_init__(self) -> None:
        if self.metric not in get_args(FluctuationMetric):
            raise ConfigError(f"flap metric is {self.metric!r}; expected 'wifv', 'wifn' or 'ifv'.")

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to the ``keep`` units of largest score."""
        return Selection.by_score(fluctuation(problem, self.metric), keep)
