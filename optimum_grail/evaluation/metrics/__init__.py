"""One file per metric; a metric is a frozen dataclass of options that is called with a model and rows."""

from __future__ import annotations

from optimum_grail.evaluation.metrics._metric import Measured, Metric, Readers
from optimum_grail.registry import Registry

METRICS: Registry[type[Metric]] = Registry("metric", __name__)

__all__ = ["METRICS", "Measured", "Metric", "Readers"]
