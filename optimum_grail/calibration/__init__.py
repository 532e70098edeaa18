"""Calibration: what runs through the model, and what is gathered on the way."""

from __future__ import annotations

from optimum_grail.calibration.batches import Batch, CalibrationData, overlap
from optimum_grail.calibration.processors import load_processors
from optimum_grail.calibration.sources import load_calibration

__all__ = ["Batch", "CalibrationData", "load_calibration", "load_processors", "overlap"]
