"""Telling a person how far a run is."""

from __future__ import annotations

import sys
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBar


class Progress(Protocol):
    """What a long run calls. ``finish`` is called once, also after an error."""

    def start(self, total: int, description: str) -> None:
        """Begin a phase of ``total`` steps; a running phase ends."""

    def update(self, advance: int, description: str) -> None:
        """``advance`` more steps are done; ``description`` names what is being worked on (block and group)."""

    def message(self, text: str) -> None:
        """Say one line, for example the estimate of time and memory."""

    def finish(self) -> None:
        """End the running phase, if any."""


class Silent:
    """Says nothing: the default of the Python API."""

    def start(self, total: int, description: str) -> None:
        """Nothing."""

    def update(self, advance: int, description: str) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


def bars_wanted(progress: Progress) -> bool:
    """Whether others may draw a bar of their own between two phases: not in silence, nor without a terminal."""
    return not isinstance(progress, Silent) and sys.stderr.isatty()


class RichProgress:
    """A bar with the block and group in work and the time left.

    Args:
        console: where to draw; standard error by default. Without a terminal only the phases'
            descriptions and messages are printed.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar: RichBar | None = None

    def start(self, total: int, description: str) -> None:
        """Draw a new bar of ``total`` steps."""
        self.finish()
        self._bar = RichBar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._bar.add_task(description, total=total)
        if self.console.is_terminal:
            self._bar.start()
        else:
            self.message(description)

    def update(self, advance: int, description: str) -> None:
        """Move the bar and name what is being worked on."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=advance, description=description)

    def message(self, text: str) -> None:
        """Print one line above the bar."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
