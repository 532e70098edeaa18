"""Telling a person how far a run is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBar

PARTS, PAUSE = 10, 2.0
"""Most lines of a log for a phase that does not go through a model's blocks, and the least seconds between two."""


class Progress(Protocol):
    """What a long run calls. ``finish`` is called once, also after an error."""

    def start(self, total: int, description: str) -> None:
        """Begin a phase of ``total`` steps; a running phase ends."""

    def update(self, advance: int, description: str) -> None:
        """``advance`` more steps are done; ``description`` names what was worked on: a group's name, which begins with
        its block's, or the phase's description where there is no more to say."""

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


@dataclass
class _Phase:
    """What is known of the phase that runs.

    Args:
        name: its description.
        total: its steps.
        bar: on a terminal.
        began: when, in seconds of the performance counter.
        done: steps that are done.
        told: steps that were done when a log got its last line, and the seconds since the phase began.
        block: that the last line named.
    """

    name: str
    total: int
    bar: RichBar | None
    began: float
    done: int = 0
    told: tuple[int, float] = (0, 0.0)
    block: str = ""

    def step(self, advance: int, description: str) -> str | None:
        """Count, and return the line that a log gets: one for every block, or at most :data:`PARTS` of them."""
        self.done += advance
        used = time.perf_counter() - self.began
        block = description.rpartition(".")[0]
        many = PARTS * (self.done - self.told[0]) >= self.total and used - self.told[1] >= PAUSE
        due = block != self.block if block else many
        if not due or self.done >= self.total:
            return None  # the end of a phase has a line of its own
        self.told, self.block = (self.done, used), block
        left = used * (self.total - self.done) / max(self.done, 1)
        place = f" ({block})" if block else ""
        return f"{self.name}: {self.done:,} of {self.total:,}{place}, {span(used)} used, about {span(left)} left"

    def end(self) -> str:
        """The last line of a log."""
        return f"{self.name}: {self.done:,} of {self.total:,} in {span(time.perf_counter() - self.began)}"


class RichProgress:
    """A bar with what is in work and the time left; where there is no terminal, lines with the time used and left.

    Args:
        console: where to draw; standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._phase: _Phase | None = None

    def start(self, total: int, description: str) -> None:
        """Draw a new bar of ``total`` steps, or say what begins."""
        self.finish()
        bar = self._bar(total, description) if self.console.is_terminal else None
        self._phase = _Phase(description, total, bar, time.perf_counter())
        if self._phase.bar is None:
            self.message(f"{description} ...")

    def _bar(self, total: int, description: str) -> RichBar:
        columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
        bar = RichBar(*columns, TimeRemainingColumn(), console=self.console, transient=True)
        bar.add_task(description, total=total)
        bar.start()
        return bar

    def update(self, advance: int, description: str) -> None:
        """Move the bar and name what is being worked on, or say a line."""
        phase = self._phase
        if phase is None:
            return
        line = phase.step(advance, description)
        if phase.bar is not None:
            what = phase.name if description == phase.name else f"{phase.name}: {description}"
            phase.bar.update(phase.bar.task_ids[0], advance=advance, description=what)
        elif line is not None:
            self.message(line)

    def message(self, text: str) -> None:
        """Print one line above the bar."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> None:
        """Remove the bar, or say how long the phase took."""
        phase, self._phase = self._phase, None
        if phase is not None and phase.bar is not None:
            phase.bar.stop()
        elif phase is not None:
            self.message(phase.end())


def span(seconds: float) -> str:
    """A duration for people: ``"0.4 s"``, ``"95 s"``, ``"7 min"`` or ``"2 h 05 min"``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
