"""What a run measures of the dense model and then of the compressed one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from optimum_grail.data.batches import CalibrationData
from optimum_grail.evaluation.comparison import Comparisons
from optimum_grail.evaluation.stopwatch import compare_forward, shape_of, stopwatch_seconds
from optimum_grail.report.progress import Progress


@dataclass
class BeforeAndAfter:
    """What a run measures of the dense and then of the compressed model: a metric and the time of a forward pass.

    Args:
        comparisons: the metric and its data.
        progress: told before each measurement.
        results: the report's evaluation rows, once both are measured.
        notes: what a reader of the results should know.
        forward: both forward passes, as a report has them.
    """

    comparisons: Comparisons
    progress: Progress
    results: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    forward: Mapping[str, Any] = field(default_factory=dict)

    def seconds(self, model: nn.Module, sample: float) -> float:
        """See :class:`optimum_grail.pipeline.run.Watch`."""
        return 2 * self.comparisons.seconds(model) + stopwatch_seconds(sample)

    def dense(self, model: nn.Module, data: CalibrationData | None) -> None:
        """Measure what the compressed model is compared with."""
        self._dense = self.comparisons.measure(model, "dense", self.progress)
        self._shape = None if data is None else shape_of(model)

    def compressed(self, model: nn.Module, data: CalibrationData | None) -> None:
        """Measure and compare."""
        found = self.comparisons.measure(model, "compressed", self.progress)
        self.results, notes = self.comparisons.rows(self._dense, found, data)
        self.notes = (*self.comparisons.warnings(data), *notes)
        self.forward = compare_forward(self._shape, model, data)
