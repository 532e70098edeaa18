"""How much of a run may go into keeping its state."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SHARE = 0.03
"""Most of the wall time so far that goes into what is kept along the way."""
RATE = 2e8
"""Bytes a second that a disk is taken to write before that is known."""


@dataclass
class Budget:
    """Seconds that may be spent on writing.

    Args:
        began: when the run did, in seconds of the performance counter.
        spent: seconds that were spent.
        rate: bytes a second, as last seen.
    """

    began: float = field(default_factory=time.perf_counter)
    spent: float = 0.0
    rate: float = RATE

    def allows(self, size: int) -> bool:
        """Whether so many bytes can be written."""
        return self.spent + size / self.rate <= SHARE * (time.perf_counter() - self.began)

    @contextmanager
    def spending(self, size: int) -> Iterator[None]:
        """The body writes so many bytes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - start
            self.spent += taken
            self.rate = max(size / max(taken, 1e-9), 1.0)
