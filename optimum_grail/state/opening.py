"""Which state a run begins with: none, or that of a run that did not end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from optimum_grail.checkpoints.output import PREFIX
from optimum_grail.checkpoints.work_folders import Hold
from optimum_grail.errors import CheckpointError, ConfigError, OutputError
from optimum_grail.report.progress import Progress
from optimum_grail.state.folder import report_mark, states_of
from optimum_grail.state.header import Header
from optimum_grail.state.identity import differences, machine
from optimum_grail.state.run_state import RunState, refusal


@contextmanager
def kept_state(
    output: str | Path | None, identity: Callable[[], Mapping[str, Any]], resume: bool, progress: Progress
) -> Iterator[RunState | None]:
    """The state of a run that the body does. If the body fails, what was kept is told of.

    Args:
        output: the folder to be; ``None``: nothing will be written, and nothing is kept.
        identity: tells what the run is, see :func:`optimum_grail.state.identity.identity_of`.
        resume: as of :func:`open_state`.
        progress: told what is done.

    Raises:
        ConfigError: ``resume`` without an output.
        CheckpointError, OutputError: as :func:`open_state`.
    """
    if output is None:
        if resume:
            raise ConfigError("resume=True needs the folder that the run was to write. Name it as save_directory.")
        yield None
        return
    state = open_state(output, identity(), resume, progress)
    with state.guarded():
        yield state


def written_by_state(output: str | Path | None) -> bool:
    """Whether what is at ``output`` was written by a run whose state is still there, because it was killed between the
    last two steps: to write the output again is what its resumed run has to do."""
    if output is None:
        return False
    target = Path(output).expanduser().resolve()
    mark = report_mark(target)
    for folder in states_of(target) if mark else ():
        try:
            if Header.read(folder).written == mark:
                return True
        except CheckpointError:
            continue
    return False


def open_state(output: str | Path, identity: Mapping[str, Any], resume: bool, progress: Progress) -> RunState:
    """The state of a run into ``output``.

    Args:
        output: the folder to be.
        identity: what the run is, see :func:`optimum_grail.state.identity.identity_of`.
        resume: go on with what an interrupted run kept. Otherwise that is told of and left alone: this run keeps what
            it does in a folder of its own.
        progress: told what is done.

    Raises:
        CheckpointError: to be resumed, the state is damaged or belongs to another run; the message names what differs.
        OutputError: to be resumed, another process has it.
    """
    target = Path(output).expanduser().resolve()
    fresh = Header(identity=identity, started=time.strftime("%Y-%m-%d %H:%M"), machine=machine())
    found = states_of(target)
    free = [hold for folder in found if (hold := Hold.on(folder)) is not None]
    if not resume:
        for hold in free:
            _tell(target, hold, progress)
        return RunState(target, fresh, None, progress)
    if found and not free:
        raise OutputError(f"Another process is at work on {str(found[-1])!r}. Wait for it, or end it, and try again.")
    if not free:
        progress.message(f"There is nothing to resume for {str(target)!r}: the run starts from the beginning.")
        return RunState(target, fresh, None, progress)
    return _resumed(target, free, identity, progress)


def _resumed(target: Path, free: list[Hold], identity: Mapping[str, Any], progress: Progress) -> RunState:
    """The state that is this run's, and of several the one that got furthest."""
    states, refused = list[RunState](), list[CheckpointError]()
    for hold in free:
        try:
            header = Header.read(hold.folder)
        except CheckpointError as error:
            refused.append(error)
            continue
        unlike = differences(header.identity, identity)
        if unlike:
            refused.append(refusal(hold.folder, unlike))
        else:
            states.append(RunState(target, replace(header, written=""), hold, progress))
    chosen = max(states, key=lambda state: len(state.blocks)) if states else None
    for hold in free:
        if chosen is None or hold.folder != chosen.folder:
            hold.release()
    if chosen is None:
        raise refused[-1]
    progress.message(f"Going on with the run of {chosen.header.started}: {chosen.reached()} kept in {chosen.folder}")
    if unlike := differences(chosen.header.machine, machine()):
        progress.message(f"The last bits may not be those of an undisturbed run: {'; '.join(unlike)}.")
    return chosen


def _tell(target: Path, hold: Hold, progress: Progress) -> None:
    """Say what an interrupted run left; what a finished one left is removed."""
    try:
        header = Header.read(hold.folder)
    except CheckpointError as error:
        progress.message(str(error))
        hold.release()
        return
    if header.written and header.written == report_mark(target):
        hold.discard(PREFIX)
        return
    state = RunState(target, header, hold, progress)
    progress.message(
        f"An interrupted run of {header.started} into {target.name!r} left {state.reached()}. It is left alone: "
        f"--resume (resume=True) goes on with it; delete {hold.folder} if you do not want it."
    )
    hold.release()
