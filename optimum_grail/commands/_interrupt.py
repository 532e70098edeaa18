"""Ctrl-C ends a command with one line, whether it meets an import, the parser or the work."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""Exit code, as shells have it: 128 and the number of the signal."""
NOTHING_WRITTEN = "interrupted; no output folder was written or changed."


def end_on_interrupt_(program: list[str]) -> None:
    """Until a session begins, let Ctrl-C end the process at once: nothing has been written yet.

    Args:
        program: ``sys.argv``; other commands than ours, and programs with a handler of their own, are left alone.
    """
    if program[1:2] == ["grail"] and _handler() is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C raises ``KeyboardInterrupt`` in the block.

    Yields:
        a function that says whether it was pressed: what is half imported turns the exception into one of its own.
    """
    pressed = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        """Remember it, and raise what Python raises."""
        pressed.set()
        raise KeyboardInterrupt

    before = _handler()
    if before is not _end and before is not signal.default_int_handler:
        yield pressed.is_set
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is _end else before)


def _handler() -> object:
    """What handles Ctrl-C; ``None`` in a thread, which may not change it."""
    return signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None


def _end(number: int, frame: FrameType | None) -> None:
    sys.stderr.write(f"Error: {NOTHING_WRITTEN}\n")
    sys.stderr.flush()
    os._exit(INTERRUPTED)
