"""Where states lie: hidden folders beside the output, one per run that did not end."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from optimum_grail.checkpoints.output import PREFIX
from optimum_grail.checkpoints.work_folders import Hold
from optimum_grail.report.report import REPORT_FILE

HEADER = "state.json"
"""What makes a folder a state; one without it holds nothing yet."""
LONGEST = 200
"""Bytes of an output's name that a state's may hold; of longer ones it holds a hash."""


def states_of(output: Path) -> list[Path]:
    """The states of runs into ``output`` (absolute), those of running ones included, first begun first."""
    base = _base(output)
    pattern = re.compile(re.escape(base.name) + r"\d*")
    found = [path for path in _folders(output.parent) if pattern.fullmatch(path.name) and (path / HEADER).is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(base.name) or 1))


def new_state(output: Path) -> Hold:
    """A folder for a state that no other run has; it is empty but for the lock.

    Raises:
        OSError: it cannot be made.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    base = _base(output)
    return next(hold for number in count(1) if (hold := _taken(base, number)) is not None)


def _taken(base: Path, number: int) -> Hold | None:
    """The folder of that number, unless it is a state or another process makes one of it."""
    path = base if number == 1 else base.with_name(f"{base.name}{number}")
    path.mkdir(mode=0o700, exist_ok=True)
    hold = Hold.on(path)
    if hold is not None and (path / HEADER).exists():
        hold.release()
        return None
    return hold


def report_mark(output: Path) -> str:
    """A hash of the report in ``output``, which tells its run from all others: it holds times; ``""`` if there is
    none."""
    try:
        return hashlib.sha256((output / REPORT_FILE).read_bytes()).hexdigest()
    except OSError:
        return ""


def _base(output: Path) -> Path:
    name = output.name
    if len(name.encode()) > LONGEST:
        name = hashlib.sha256(name.encode()).hexdigest()[:24]
    return output.with_name(f"{PREFIX}{name}.state")


def _folders(parent: Path) -> Iterator[Path]:
    try:
        yield from (path for path in parent.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:  # there is no such folder, or it cannot be read
        return
