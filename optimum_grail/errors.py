"""Errors a user can act on.

Every error the package raises on purpose derives from :class:`GrailError`, a ``ValueError``: its message names the
value at fault, what was expected, and the remedy. The command line turns it into one line and exit code 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

NEAR = 0.78
"""Least likeness (difflib's ratio) of a slip of the pen: one wrong letter of five, not of four."""
LONGEST = 80
"""So many characters of a user's word stand in a message."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``word`` was probably meant to be, or none; capitals and kinds of dashes are alike."""
    plain = {_plain(name): name for name in known}
    found = get_close_matches(_plain(word[:LONGEST]), list(plain), n=1, cutoff=NEAR)
    return plain[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'NAME'?"`` to end a sentence with; empty where none of ``known`` is near."""
    found = nearest(word, known)
    return "" if found is None else f" Did you mean {found!r}?"


def cut(word: str) -> str:
    """``word``, or its first characters if it is longer than a message should quote."""
    return word if len(word) <= LONGEST else word[: LONGEST - 3] + "..."


def _plain(word: str) -> str:
    return word.lower().replace("_", "-")


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
        tail = f" {remedy}" if remedy else ""
        guess = did_you_mean(name, names)
        return cls(f"Unknown {kind} {cut(name)!r}.{guess} Available: {', '.join(names) or 'none'}.{tail}")


class ArchitectureError(GrailError):
    """The model, or one of its modules, does not fit the map that should describe it."""


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
