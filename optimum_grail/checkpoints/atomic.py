"""Writing one file so that it is there whole or not at all, even where the power fails in between."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from optimum_grail.errors import OutputError

PART = ".part"
"""How the name of a file ends while it is written."""


def write_atomically(path: Path, write: Callable[[Path], object], remedy: str = "Free some space.") -> None:
    """Write a file beside ``path``, bring it to the disk, and put it in the place of ``path`` only then.

    Args:
        path: the file to be; an older one stays until the new one is complete. Its folder has to exist.
        write: called with the path to write to; whatever it raises, nothing of what it wrote stays.
        remedy: what a message about a full disk ends with.

    Raises:
        OutputError: the disk is full; the message says how much is free.
    """
    draft = path.with_name(path.name + PART)
    try:
        write(draft)
        to_disk(draft)
        draft.replace(path)
        to_disk(path.parent)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if is_full(error):
            free = shutil.disk_usage(path.parent).free
            raise OutputError(f"The disk of {str(path)!r} is full ({free:,} bytes are free). {remedy}") from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether a full disk or quota is the cause; safetensors reports it in words only."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error) or "os error 28" in str(error)


def to_disk(path: Path) -> None:
    """Wait until what was written to a file, or the names in a folder, would survive a loss of power."""
    if sys.platform == "win32" and path.is_dir():  # where a folder cannot be opened
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
