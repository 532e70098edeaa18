"""Which page a folder gets, and writing it."""

from __future__ import annotations

from pathlib import Path

from optimum_grail.checkpoints.single_files import check_file, write_file
from optimum_grail.errors import CheckpointError
from optimum_grail.hub.metadata import inherited_from
from optimum_grail.pages.page import GENERATOR, Page
from optimum_grail.pages.run import run_page
from optimum_grail.pages.sweeps import read_sweep, sweep_page
from optimum_grail.pages.vocabulary import VOCABULARY_FILE, read_vocabulary, vocabulary_page
from optimum_grail.report.report import REPORT_FILE, Report
from optimum_grail.report.sweep_view import SWEEP_FILE


def page_of(folder: str | Path, *, title: str | None = None) -> Page:
    """The page of what lies in ``folder``: a compressed checkpoint, a sweep or a trimmed vocabulary, the first it is.

    Args:
        folder: what `grail compress`, `recover`, `sweep` or `trim-vocabulary` wrote.
        title: heading; by default the model's name and what was done.

    Raises:
        CheckpointError: it is no folder, holds none of them, or a damaged one.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise CheckpointError(f"{str(folder)!r} is no folder. Name the one that `grail compress` or `sweep` wrote.")
    if (root / REPORT_FILE).is_file():
        files = sorted((file.name, file.stat().st_size) for file in root.iterdir() if file.is_file())
        licence = str(inherited_from(root).get("license") or "")
        return run_page(Report.load(root), title=title, licence=licence, files=files)
    if (root / SWEEP_FILE).is_file():
        return sweep_page(read_sweep(root / SWEEP_FILE), title=title)
    if (root / VOCABULARY_FILE).is_file():
        return vocabulary_page(read_vocabulary(root), root.resolve().name, title=title)
    raise CheckpointError(
        f"{str(folder)!r} holds no {REPORT_FILE} (of a compressed checkpoint), no {SWEEP_FILE} (of a sweep) and no "
        f"{VOCABULARY_FILE} (of a trimmed vocabulary). Name the folder that `optimum-cli grail compress`, `sweep` or "
        "`trim-vocabulary` wrote."
    )


def check_page(folder: str | Path, output: str | Path, overwrite: bool = False) -> None:
    """Refuse before any long work what :func:`write_page` would refuse.

    Raises:
        CheckpointError: see :func:`page_of`.
        OutputError: ``output`` exists, or cannot be written.
    """
    check_file(output, GENERATOR.encode(), overwrite)
    page_of(folder)


def write_page(folder: str | Path, output: str | Path, *, title: str | None = None, overwrite: bool = False) -> Path:
    """Write the page of ``folder`` to the file ``output`` and return its path.

    Args:
        folder: see :func:`page_of`.
        output: the HTML file to be; complete or absent.
        title: heading.
        overwrite: whether an earlier page may be replaced.

    Raises:
        CheckpointError: see :func:`page_of`.
        OutputError: ``output`` exists, or cannot be written.
    """
    target = check_file(output, GENERATOR.encode(), overwrite)
    write_file(target, page_of(folder, title=title).html().encode("utf-8", "replace"))
    return target
