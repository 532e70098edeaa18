"""The metric of a sweep: of every model the same sets, without keeping what the dense model answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from optimum_grail.data.batches import CalibrationData
from optimum_grail.evaluation.comparison import Comparison, Comparisons
from optimum_grail.evaluation.metrics import Measured
from optimum_grail.report.progress import Progress


@dataclass(frozen=True)
class SweepMetric:
    """One metric on every evaluation set of a sweep.

    Args:
        comparisons: the metric and its data.
        progress: told before each measurement.
    """

    comparisons: Comparisons
    progress: Progress

    @property
    def settings(self) -> dict[str, Any]:
        """What :class:`optimum_grail.sweep.Sweep` takes of it; empty without data."""
        if not self.comparisons.items:
            return {}
        metric = self.comparisons.items[0].metric
        return {
            "measure": self.measure,
            "corpora": self.corpora,
            "headline": metric.headline,
            "higher_is_better": metric.higher_is_better,
        }

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """The first set's results; of several sets those of each under ``sets``, by name."""
        results = [found.result for found in self.comparisons.measure(model, "compressed", self.progress)]
        named = {item.dataset: result for item, result in zip(self.comparisons.items, results, strict=True)}
        return {**results[0], **({"sets": named} if len(named) > 1 else {})}

    def corpora(self, data: CalibrationData | None) -> dict[str, str | None]:
        """By set: whether it is of the corpus of ``data``."""
        return {item.dataset: item.corpus(data) for item in self.comparisons.items}

    def rows(
        self, dense: Mapping[str, Any], compressed: Mapping[str, Any], data: CalibrationData | None
    ) -> tuple[dict[str, Any], ...]:
        """A report's evaluation rows of what :meth:`measure` found; of agreement nothing is known."""

        def of(results: Mapping[str, Any], item: Comparison) -> Measured:
            """The results on one set."""
            return Measured(results.get("sets", {}).get(item.dataset, results))

        return tuple(item.row(of(dense, item), of(compressed, item), data) for item in self.comparisons.items)
