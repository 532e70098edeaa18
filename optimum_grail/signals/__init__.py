"""One file per signal; a signal is one measurement of the dense model that allocations ask for by its name."""

from __future__ import annotations

from optimum_grail.core import needs
from optimum_grail.registry import Registry
from optimum_grail.signals._signal import Dense, Seen, Signal, Tensors, Visit, Work

SIGNALS: Registry[type[Signal]] = needs.SIGNALS

__all__ = ["SIGNALS", "Dense", "Seen", "Signal", "Tensors", "Visit", "Work"]
