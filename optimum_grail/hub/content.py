"""What of a checkpoint's folder is published."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from optimum_grail.checkpoints.files import WRITTEN, matches, present_name, strangers, written_files
from optimum_grail.errors import CheckpointError
from optimum_grail.report.report import REPORT_FILE, Report


def report_of(folder: Path) -> Report:
    """The report of a checkpoint.

    Raises:
        CheckpointError: ``folder`` holds none, or a damaged one.
    """
    if not os.path.isfile(folder / REPORT_FILE):
        raise CheckpointError(
            f"{str(folder)!r} holds no {REPORT_FILE}, so it is no compressed checkpoint. Name the folder that "
            "`optimum-cli grail compress` or save_pretrained wrote."
        )
    return Report.load(folder)


def files_of(folder: str | Path, include: Sequence[str] = ()) -> dict[str, Path]:
    """What of a checkpoint is published: the files that a run wrote, under their names on the Hub.

    These are the ones that its manifest names, and whatever else is called as a run calls its files. Hidden files and
    what lies in hidden folders are never among them.

    Args:
        folder: the checkpoint.
        include: patterns of further files, as paths within the folder; ``*`` crosses folders.

    Raises:
        CheckpointError: the folder is no checkpoint of this package; a pattern fits nothing; or a file is a link that
            leads nowhere or out of the folder.
    """
    root = Path(folder)
    report_of(root)
    paths = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if not path.is_dir()}
    visible = {name: path for name, path in paths.items() if not name.startswith(".") and "/." not in name}
    for pattern in include:
        if not any(fnmatch(name, pattern) for name in visible):
            raise CheckpointError(f"include={pattern!r} fits no file in {str(root)!r}. Check the spelling.")
    written = written_files(root) or set()
    found = {
        present_name(name): path
        for name, path in visible.items()
        if name in written or matches(name, WRITTEN) or any(fnmatch(name, pattern) for pattern in include)
    }
    for name, path in found.items():
        if not (path.is_file() and path.resolve().is_relative_to(root.resolve())):
            raise CheckpointError(
                f"{name!r} in {str(root)!r} is a link out of the folder, or leads nowhere; what lies elsewhere is not "
                "published. Put a copy in its place."
            )
    return found


def left_out(folder: str | Path, files: Mapping[str, Path]) -> list[str]:
    """What of a checkpoint is not published, of folders only the name; hidden ones are not worth a word."""
    root = Path(folder)
    published = {path.relative_to(root).as_posix() for path in files.values()}
    return [name for name in strangers(root, published) if not name.startswith(".") and "/." not in name]
