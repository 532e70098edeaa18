"""Errors a user can act on.

Every error the package raises on purpose derives from :class:`GrailError`, a ``ValueError``: its message names the
value at fault, what was expected, and the remedy. The command line turns it into one line and exit code 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class GrailError(ValueError):
    """Base of every error that bad input causes."""


class ConfigError(GrailError):
    """A configuration value is outside its accepted range, or two values contradict each other."""


class UnknownNameError(GrailError):
    """A selector, compensator, allocation, preset, metric or architecture of that name does not exist."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str], remedy: str = "") -> UnknownNameError:
        """Build the error for ``name``, with the nearest of ``known`` as a suggestion."""
        names = sorted(known)
        close = get_close_matches(name, names, n=1, cutoff=0.5)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        tail = f" {remedy}" if remedy else ""
        return cls(f"Unknown {kind} {name!r}.{guess} Available: {', '.join(names) or 'none'}.{tail}")


class ArchitectureError(GrailError):
    """The model, or one of its modules, does not fit the map that should describe it."""


class BlocksMissingError(ArchitectureError):
    """No part of the model has the blocks that its map names."""


class BudgetError(GrailError):
    """The asked sparsity cannot be reached, or would leave a group without units."""


class DataError(GrailError):
    """Calibration or evaluation data is missing, empty, too short or of the wrong type."""


class CheckpointError(GrailError):
    """A checkpoint is missing, corrupt, already compressed, or its tables do not fit its weights."""


class StatisticsError(GrailError):
    """Calibration statistics of a group are unusable (non-finite, or no rows)."""


class OutputError(GrailError):
    """The output folder cannot be written, or exists already."""


class HubError(GrailError):
    """The Hub refused an upload, failed, or was out of reach; nothing was committed."""
