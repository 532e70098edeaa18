"""Evaluation: how good a model is, dense or compressed, by metrics with a stated protocol."""

from __future__ import annotations

from optimum_grail.evaluation.metrics import METRICS, Metric

__all__ = ["METRICS", "Metric"]
