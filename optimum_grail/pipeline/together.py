"""The processes that do a run, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optimum_grail.errors import ConfigError
from optimum_grail.processes.joining import joined
from optimum_grail.processes.ranks import Ranks
from optimum_grail.report.progress import Progress
from optimum_grail.state.opening import kept_state
from optimum_grail.state.run_state import RunState


@contextmanager
def together(
    output: str | Path | None,
    identity: Callable[[], Mapping[str, Any]],
    resume: bool,
    progress: Progress,
) -> Iterator[tuple[Ranks, RunState | None]]:
    """The processes of the run that the body does, and its state, which is kept where one process alone does it.

    Args:
        output, identity, resume, progress: as of :func:`optimum_grail.state.opening.kept_state`.

    Raises:
        ConfigError: several processes are to go on with a run.
        ProcessError: another process did not come, failed, or is gone.
        CheckpointError, OutputError: as of :func:`optimum_grail.state.opening.kept_state`.
    """
    with joined() as found:
        if found.count == 1:
            with kept_state(output, identity, resume, progress) as state:
                yield found, state
            return
        if resume:
            raise ConfigError(
                "resume=True (--resume) goes on in one process only: of a run of several processes nothing is kept, "
                "since each holds the hidden states of its own rows. Leave it out to begin anew."
            )
        yield found, None
