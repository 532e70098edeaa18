"""Writing a folder so that it is complete or absent, whatever happens in between."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count, islice
from pathlib import Path

from optimum_grail.checkpoints.atomic import is_full
from optimum_grail.checkpoints.files import MANIFEST, strangers, write_manifest, written_files
from optimum_grail.checkpoints.work_folders import WorkFolder, remove_abandoned
from optimum_grail.errors import OutputError
from optimum_grail.report.report import REPORT_FILE

PREFIX = ".grail-"
"""Of the work folders beside an output; in one, ``new/NAME`` is what is written and ``old/NAME`` what it replaces."""


def check_output(path: str | Path, overwrite: bool = False, *, source: str | Path | None = None) -> Path:
    """Find out before any long work whether ``path`` can be written; nothing is left behind.

    What a killed run left in the same place is removed, and what it was about to replace is put back.

    Args:
        path: the folder to be.
        overwrite: whether what an earlier run wrote there may be replaced.
        source: a folder that must survive: the model that is being compressed.

    Returns:
        ``path``, absolute and without links.

    Raises:
        OutputError: it is a file; it exists, is not empty and ``overwrite`` is false; it holds anything that no run
            wrote; it is, or holds, ``source``; or its parent cannot be written.
    """
    try:
        target = Path(path).expanduser().resolve()
        with suppress(FileNotFoundError, NotADirectoryError):
            target.lstat()
        remove_abandoned(target.parent, PREFIX, _put_back_)
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, links in a circle, no home, a null byte
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"The output {str(path)[:200]!r} cannot be a folder: {reason}. Choose another one.") from None
    if target.exists() and not target.is_dir():
        raise OutputError(f"The output {str(path)!r} is a file; expected a folder. Choose another one.")
    if source is not None and os.path.exists(source) and Path(source).resolve().is_relative_to(target):
        raise OutputError(
            f"The output {str(path)!r} holds the model itself, which must survive. Choose another folder."
        )
    if target.is_dir() and any(target.iterdir()):
        _check_replaceable(target, path, overwrite)
    _check_writable(_nearest_folder(target.parent), path)
    return target


def _check_replaceable(target: Path, path: str | Path, overwrite: bool) -> None:
    if not overwrite:
        raise OutputError(
            f"The output {str(path)!r} exists and is not empty. Choose another folder, or pass --overwrite "
            "(overwrite=True) to replace it."
        )
    known = written_files(target)
    if known is None:
        raise OutputError(
            f"The output {str(path)!r} exists and nothing in it says that optimum-grail wrote it (no {MANIFEST}, no "
            f"{REPORT_FILE}), so it is not replaced. Remove it yourself or choose another folder."
        )
    others = strangers(target, known)
    if others:
        names = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise OutputError(
            f"The output {str(path)!r} holds what no run wrote, which replacing it would delete: {names}. Move that "
            "away, or choose another folder."
        )


def _nearest_folder(path: Path) -> Path:
    """The deepest existing ancestor of ``path``, or ``path`` itself."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _check_writable(folder: Path, path: str | Path) -> None:
    try:
        WorkFolder(folder, PREFIX).remove()
    except OSError as error:
        raise OutputError(
            f"The output {str(path)!r} cannot be written: {error.strerror} in {str(folder)!r}. "
            "Choose a folder that you may write."
        ) from error


@contextmanager
def staged_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder, called as ``path`` is, that becomes ``path`` when the block ends well.

    Whatever ends the block otherwise (an error, Ctrl-C, a full disk), that folder is removed and what was at ``path``
    before stays as it was. The names of the files are written to ``grail_files.json`` beside them.

    Args:
        path: the folder to be.
        overwrite: whether what an earlier run wrote there may be replaced.

    Raises:
        OutputError: as :func:`check_output`; the disk is full, and the message says how much is free; or somebody
            filled ``path`` during the block, and the message says under which name the result is kept instead.
    """
    target = check_output(path, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = WorkFolder(target.parent, PREFIX)
    staging = work.path / "new" / target.name
    try:
        staging.mkdir(parents=True)
        yield staging
        _finish_(staging)
        _publish_(work, target, overwrite)
    except BaseException as error:
        written = _size(staging)
        _end_(work)
        if is_full(error):
            free = shutil.disk_usage(_nearest_folder(target.parent)).free
            raise OutputError(
                f"The disk of {str(target)!r} is full: {written:,} bytes were written before it failed, {free:,} bytes "
                "are free now that they are removed again. Free some space or choose a folder on another disk."
            ) from error
        raise
    _end_(work)


def _finish_(staging: Path) -> None:
    """Name the files in the manifest and make them readable as the umask says."""
    write_manifest(staging)
    mode = staging.stat().st_mode & 0o666
    for file in staging.rglob("*"):
        if file.is_file():
            file.chmod(mode)  # safetensors writes files that only their owner may read


def _publish_(work: WorkFolder, target: Path, overwrite: bool) -> None:
    """Put what was written at ``target``; if that cannot be, keep it under another name and say so."""
    staging, old = work.path / "new" / target.name, work.path / "old" / target.name
    try:
        with suppress(OSError):
            target.rmdir()  # an empty folder is nothing to ask about
        if target.exists():
            _check_replaceable(target, target, overwrite)
            old.parent.mkdir()
            target.rename(old)
        staging.rename(target)
    except (OSError, OutputError) as error:
        reason = error if isinstance(error, OutputError) else f"{target}: {error.strerror}."
        raise OutputError(
            f"The result could not be put in its place. {reason} {_kept(work, staging, target)}"
        ) from error


def _kept(work: WorkFolder, staging: Path, target: Path) -> str:
    """Move a finished folder to a free name beside ``target``; a sentence that tells where it is."""
    for place in (target.with_name(f"{target.name}-{number}") for number in islice(count(2), 100)):
        if not place.exists():
            with suppress(OSError):
                staging.rename(place)
                return f"The finished result is kept in {str(place)!r}."
    work.keep()
    return f"The finished result is kept in {str(staging)!r}."


def _end_(work: WorkFolder) -> None:
    if _put_back_(work.path):
        work.remove()
    else:
        work.keep()


def _put_back_(folder: Path) -> bool:
    """Put back what a run had taken away to replace it, unless the new one is there; whether the rest may go."""
    for old in folder.glob("old/*"):
        target = folder.parent / old.name
        if not target.exists():
            old.rename(target)
            warnings.warn(f"{str(target)!r} is put back: the run that was to replace it did not end.", stacklevel=3)
        elif written_files(target) is None:
            return False
        else:
            old.rename(folder / "superseded")  # half removed, it must not be taken for the whole
    return True


def _size(folder: Path) -> int:
    """Bytes of the files in ``folder``."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
