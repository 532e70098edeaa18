"""What a run is told, and what it notes along its way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from torch import nn

from optimum_grail.config.config import GrailConfig
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.data.batches import CalibrationData
from optimum_grail.fit.methods import Methods
from optimum_grail.processes.ranks import ALONE, Ranks
from optimum_grail.report.progress import Progress, Silent
from optimum_grail.state.run_state import RunState
from optimum_grail.survey.cache import StatisticsCache

if TYPE_CHECKING:
    from optimum_grail.data.foreign import Processor, Tokenizer


@dataclass(frozen=True)
class Setup:
    """What a run is told beside its model and its data.

    Args:
        config: the resolved configuration.
        spec: the architecture map; by default the registered one of the model's type.
        tokenizer: for text calibration data.
        processor: for image calibration data.
        progress: told about every group.
        cache: of the dense model, for what does not depend on the sparsity; ``None``: everything is measured.
        state: of the run, so far; ``None``: nothing of it is kept.
        ranks: the processes that share the calibration rows.
    """

    config: GrailConfig
    spec: ArchitectureSpec | None = None
    tokenizer: Tokenizer | None = None
    processor: Processor | None = None
    progress: Progress = field(default_factory=Silent)
    cache: StatisticsCache | None = None
    state: RunState | None = None
    ranks: Ranks = ALONE

    @cached_property
    def methods(self) -> Methods:
        """The three methods of the configuration."""
        return Methods.of(self.config)


@dataclass
class Journal:
    """What a run notes along its way.

    Args:
        seconds: wall time by stage.
        notes: what the user should know.
        offload: whether the streams are kept in files.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    offload: bool = False
    _began: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall time of the body to ``seconds[stage]``."""
        self._began[stage] = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.so_far()[stage]
            del self._began[stage]

    def so_far(self) -> dict[str, float]:
        """``seconds`` with what the stages under way have taken yet."""
        now = time.perf_counter()
        return {
            stage: self.seconds.get(stage, 0.0) + (now - self._began[stage] if stage in self._began else 0.0)
            for stage in (*self.seconds, *(stage for stage in self._began if stage not in self.seconds))
        }


class Watch(Protocol):
    """What is measured along the way. The model is in eval mode, on a CPU in float32, and may not be changed."""

    def seconds(self, model: nn.Module, sample: float) -> float:
        """What all measurements of a run will take together, where one calibration sample's pass takes ``sample``
        seconds."""
        raise NotImplementedError

    def dense(self, model: nn.Module, data: CalibrationData | None) -> None:
        """Measure the model as it came; ``data`` is what it will be calibrated on."""

    def compressed(self, model: nn.Module, data: CalibrationData | None) -> None:
        """Measure what became of it."""


class Unwatched:
    """Measures nothing."""

    def seconds(self, model: nn.Module, sample: float) -> float:
        """None."""
        return 0.0

    def dense(self, model: nn.Module, data: CalibrationData | None) -> None:
        """Nothing."""

    def compressed(self, model: nn.Module, data: CalibrationData | None) -> None:
        """Nothing."""
