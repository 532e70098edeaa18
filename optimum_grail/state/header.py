"""The first page of a state: which run it belongs to, and how long that took so far."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimum_grail.checkpoints.atomic import write_atomically
from optimum_grail.errors import CheckpointError, OutputError, shorten
from optimum_grail.report import fields
from optimum_grail.state.folder import HEADER

FORMAT = 1
"""Rises when earlier states can no longer be gone on with."""
MOST_BYTES = 2**24
"""Of the file: a configuration is no larger."""
REMEDY = "Free some space, then go on with --resume (resume=True): what was done before is kept."


@dataclass(frozen=True)
class Header:
    """What ``state.json`` says.

    Args:
        identity: what the run is, see :func:`optimum_grail.state.identity.identity_of`.
        data: what became known of it with its data; empty before.
        seconds: wall time by stage, of all processes so far.
        started: when the run began, for people.
        written: the mark of the report in the output that this run wrote, see
            :func:`optimum_grail.state.folder.report_mark`; ``""`` before that.
        machine: processor and threads; on others sums may round differently.
        format: of the state.
    """

    identity: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    started: fields.Word = ""
    written: fields.Digest = ""
    machine: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Replace ``state.json`` in ``folder``.

        Raises:
            OutputError: it cannot be written.
        """
        text = json.dumps(vars(self), indent=1) + "\n"
        try:
            write_atomically(folder / HEADER, lambda draft: draft.write_text(text, encoding="utf-8"), REMEDY)
        except OSError as error:
            raise OutputError(f"The state {str(folder)!r} cannot be written: {error}.") from error

    @classmethod
    def read(cls, folder: Path) -> Header:
        """What ``state.json`` in ``folder`` says, every field by its type.

        Raises:
            CheckpointError: it is damaged, or another version wrote it.
        """
        path = folder / HEADER
        try:
            if path.stat().st_size > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES:,} bytes")
            found = json.loads(path.read_text(encoding="utf-8"))
            version = found.get("format") if isinstance(found, dict) else None
            if version != FORMAT:
                raise ValueError(f"its format is {shorten(version)}, expected {FORMAT}")
            header: Header = fields.read(found, cls, "state.json")
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"The state {str(folder)!r} cannot be read: {error} Delete the folder to begin anew."
            ) from error
        return header
