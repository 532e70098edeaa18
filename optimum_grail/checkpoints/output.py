"""Writing a folder so that it is complete or absent, whatever happens in between."""

from __future__ import annotations

import errno
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optimum_grail.errors import OutputError

CHECKPOINT_FILES = (
    "config.json",
    "grail_config.json",
    "grail_layers.json",
    "grail_report.json",
    "adapter_config.json",
)
"""An existing folder is replaced only if it holds one of these: it then is a checkpoint and not, say, a home folder."""


def check_output(path: str | Path, overwrite: bool = False, *, source: str | Path | None = None) -> Path:
    """Find out before any long work whether ``path`` can be written; nothing is left behind.

    Args:
        path: the folder to be.
        overwrite: whether an existing checkpoint there may be replaced.
        source: a folder that must survive: the model that is being compressed.

    Returns:
        ``path``, absolute and without links.

    Raises:
        OutputError: it is a file; it exists, is not empty and ``overwrite`` is false; it is no checkpoint; it is, or
            holds, ``source``; or its parent cannot be written.
    """
    target = Path(path).expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise OutputError(f"The output {str(path)!r} is a file; expected a folder. Choose another one.")
    if source is not None and Path(source).exists() and Path(source).resolve().is_relative_to(target):
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
    if not any((target / name).is_file() for name in CHECKPOINT_FILES):
        raise OutputError(
            f"The output {str(path)!r} exists and does not look like a checkpoint (no {', '.join(CHECKPOINT_FILES)}), "
            "so it is not replaced. Remove it yourself or choose another folder."
        )


def _nearest_folder(path: Path) -> Path:
    """The deepest existing ancestor of ``path``, or ``path`` itself."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _check_writable(folder: Path, path: str | Path) -> None:
    probe = folder / _name("probe")
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise OutputError(
            f"The output {str(path)!r} cannot be written: {error.strerror} in {str(folder)!r}. "
            "Choose a folder that you may write."
        ) from error


def _name(stem: str) -> str:
    return f".{stem}.{uuid.uuid4().hex[:12]}.tmp"


@contextmanager
def staged_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` that becomes ``path`` when the block ends well.

    Whatever ends the block otherwise (an error, Ctrl-C, a full disk), the staging folder is removed and what was at
    ``path`` before stays as it was.

    Args:
        path: the folder to be.
        overwrite: whether an existing checkpoint there may be replaced.

    Raises:
        OutputError: as :func:`check_output`, or the disk is full; the message says how much is free.
    """
    target = check_output(path, overwrite)
    staging = target.parent / _name(target.name)
    try:
        staging.mkdir(parents=True)
        yield staging
        _publish_(staging, target)
    except BaseException as error:
        written = _size(staging)
        shutil.rmtree(staging, ignore_errors=True)
        if _is_full(error):
            free = shutil.disk_usage(_nearest_folder(target.parent)).free
            raise OutputError(
                f"The disk of {str(target)!r} is full: {written:,} bytes were written before it failed, {free:,} bytes "
                "are free now that they are removed again. Free some space or choose a folder on another disk."
            ) from error
        raise


def _publish_(staging: Path, target: Path) -> None:
    """Put ``staging`` at ``target``, readable as the umask says; what was there comes back if that fails."""
    mode = staging.stat().st_mode & 0o666
    for file in staging.rglob("*"):
        if file.is_file():
            file.chmod(mode)  # safetensors writes files that only their owner may read
    if not target.exists():
        staging.rename(target)
        return
    old = target.parent / _name(f"{target.name}.old")
    target.rename(old)
    try:
        staging.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _size(folder: Path) -> int:
    """Bytes of the files in ``folder``."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _is_full(error: BaseException) -> bool:
    """Whether a full disk or quota is the cause; safetensors reports it in words only."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error) or "os error 28" in str(error)
