"""Errors a user can act on.

Every error the package raises on purpose derives from :class:`GrailError`, a ``ValueError``: its message names the
value at fault, what was expected, and the remedy. The command line turns it into one line and exit code 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from reprlib import Repr

LONGEST = 1000
"""Characters of a message; the middle of a longer one is left out, so that its beginning and its remedy are read."""
NEAR = 0.78
"""Least likeness (difflib's ratio) of a slip of the pen: one wrong letter of five, not of four."""

_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxtuple = 2, 4, 4, 4
_SHORT.maxstring = _SHORT.maxother = 200


def shorten(value: object, limit: int = 80) -> str:
    """``repr`` of ``value``, whatever its size and depth, in at most ``limit`` characters."""
    if isinstance(value, int) and abs(value) >= 10**limit:
        return f"a number of more than {limit} digits"  # Python itself refuses to write very long ones
    text = _SHORT.repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``word`` was probably meant to be, or none; capitals and kinds of dashes are alike."""
    plain = {_plain(name): name for name in known}
    found = get_close_matches(_plain(word[:LONGEST]), list(plain), n=1, cutoff=NEAR)
    return plain[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'NAME'?"`` to end a sentence with; empty where none of ``known`` is near."""
    found = nearest(word, known)
    return "" if found is None else f" Did you mean {found!r}?"


def _plain(word: str) -> str:
    return word.lower().replace("_", "-")


class GrailError(ValueError):
    """Base of every error that bad input causes; ``message`` is cut to :data:`LONGEST` characters."""

    def __init__(self, message: str) -> None:
        if len(message) > LONGEST:
            message = f"{message[: LONGEST // 2]} [...] {message[-LONGEST // 3 :]}"
        super().__init__(message)


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
        return cls(f"Unknown {kind} {shorten(name)}.{guess} Available: {', '.join(names) or 'none'}.{tail}")


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


class RecoveryError(GrailError):
    """Training brought the compressed model no nearer to the dense one."""


class ProcessError(GrailError):
    """Another process of the same run failed, is gone, or did something else than this one."""
