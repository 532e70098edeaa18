"""What a run measures of the dense model and then of the compressed one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from optimum_grail.data.batches import CalibrationData
from optimum_grail.data.own_text import Keep
from optimum_grail.evaluation.comparison import Comparisons
from optimum_grail.evaluation.kept import from_tensors, to_tensors
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
        keep: knows what a run that did not end measured of the dense model; ``None``: nothing.
    """

    comparisons: Comparisons
    progress: Progress
    results: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    forward: Mapping[str, Any] = field(default_factory=dict)
    keep: Keep | None = None

    def seconds(self, model: nn.Module, sample: float) -> float:
        """See :class:`optimum_grail.pipeline.run.Watch`."""
        return 2 * self.comparisons.seconds(model) + stopwatch_seconds(sample)

    def dense(self, model: nn.Module, data: CalibrationData | None) -> None:
        """Measure what the compressed model is compared with."""
        items = self.comparisons.items
        if self.keep is None or not items:
            self._dense = self.comparisons.measure(model, "dense", self.progress)
        else:
            found = self.keep("evaluation", {"of": [item.identity for item in items]}, lambda: self._measured(model))
            self._dense = from_tensors(found, [item.metric.headline for item in items], model)
        self._shape = None if data is None else shape_of(model)

    def _measured(self, model: nn.Module) -> dict[str, Tensor]:
        return to_tensors(self.comparisons.measure(model, "dense", self.progress))

    def compressed(self, model: nn.Module, data: CalibrationData | None) -> None:
        """Measure and compare."""
        found = self.comparisons.measure(model, "compressed", self.progress)
        self.results, notes = self.comparisons.rows(self._dense, found, data)
        self.notes = (*self.comparisons.warnings(data), *notes)
        self.forward = compare_forward(self._shape, model, data)
