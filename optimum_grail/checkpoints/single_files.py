"""Writing one file that a user named: complete or absent, and never over what somebody else wrote."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from optimum_grail.errors import OutputError


def check_file(path: str | Path, mark: bytes, overwrite: bool = False) -> Path:
    """Find out before any long work whether ``path`` can be written; nothing is left behind.

    Args:
        path: the file to be; folders above it that do not exist are made when it is written.
        mark: what stands in every file of this kind that we write.
        overwrite: whether such a file may be replaced.

    Returns:
        ``path``, with a home folder for a tilde.

    Raises:
        OutputError: it is a folder; it exists and ``overwrite`` is false, or nothing in it says that we wrote it; or
            its folder cannot be written.
    """
    try:
        target = Path(path).expanduser()
        with suppress(FileNotFoundError):
            target.lstat()
        if target.is_dir():
            raise OutputError(f"The output {str(path)!r} is a folder; expected a file. Add a name to it.")
        if target.exists() and not overwrite:
            raise OutputError(
                f"The output {str(path)!r} exists. Choose another name, or pass --overwrite to replace it."
            )
        if target.exists() and mark not in target.read_bytes():
            raise OutputError(
                f"The output {str(path)!r} exists and nothing in it says that optimum-grail wrote it, so it is not "
                "replaced. Remove it yourself or choose another name."
            )
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, links in a circle, no home, a null byte
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"The output {str(path)[:200]!r} cannot be a file: {error}. Choose another name.") from None
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"The output {str(path)!r} cannot be written in {str(folder)!r}. Choose another folder.")
    return target


def write_file(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` at once; whatever goes wrong, what was there before stays.

    Raises:
        OutputError: it cannot be written.
    """
    draft = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OutputError(f"Cannot write {str(path)!r}: {error}. Name another output.") from error
