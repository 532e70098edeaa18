"""What a recovery does, as a value."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from optimum_grail.config.config import GrailConfig
from optimum_grail.data.request import DataRequest
from optimum_grail.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from optimum_grail.data.foreign import DataSource

RECOVERY_FILE = "recovery.json"
SCHEDULE_FILE = "schedule.json"
Weights = Literal["lora", "full"]
RATES: dict[Weights, float] = {"lora": 1e-3, "full": 5e-5}
"""Peak learning rate where none is named."""
DEFAULT_STEPS = 200
MEASUREMENTS = 8
"""States that are measured and kept along the way where ``save_every`` is not named."""
MEASURING = 0.2
"""Share of a limited time that measuring takes at most, but for one measurement at the end."""


@dataclass(frozen=True)
class Schedule:
    """When a training ends and when it measures.

    Args:
        steps: optimizer steps.
        every: steps between two measurements; one is made after the last step too.
    """

    steps: int
    every: int


@dataclass(frozen=True)
class Recipe:
    """Settings of a recovery.

    Args:
        steps: optimizer steps; ``None``: 200, or with ``minutes`` as many as fit.
        weights: what is trained: ``"lora"``, factors on every compressed layer that are merged at the end, or
            ``"full"``, all weights of the model.
        learning_rate: its peak; warms up over a twentieth of the steps and falls along a cosine. ``None``: 1e-3 for
            factors, 5e-5 for all weights.
        rank: rank of the LoRA factors; their scale is 2.
        batch_size: samples per step.
        num_samples: samples to train on and, every fifth, to measure on.
        seqlen: tokens per sample; the compression's when ``None``.
        rewrite: whether the dense model goes on from the beginnings of the user's texts; otherwise they are read as
            they are. Without a text of the user's, and for models that do not write, it changes nothing.
        minutes: wall time for training and measuring, about: trial steps say how many fit.
        seed: of the samples, their order and the factors.
        save_every: steps between two states, each measured on the held-out samples; an interrupted run is resumed from
            the last, and the nearest to the dense model is what comes out. ``None``: an eighth of the steps.

    Raises:
        ConfigError: a number out of its range, or both ``steps`` and ``minutes``.
    """

    steps: int | None = None
    weights: Weights = "lora"
    learning_rate: float | None = None
    rank: int = 16
    batch_size: int = 8
    num_samples: int = 320
    seqlen: int | None = None
    rewrite: bool = True
    minutes: float | None = None
    seed: int = 0
    save_every: int | None = None

    def __post_init__(self) -> None:
        counts = {"rank": 1, "batch_size": 1, "num_samples": 5, "steps": 1, "save_every": 1}
        for name, least in counts.items():
            value = getattr(self, name)
            if value is None and name in ("steps", "save_every"):
                continue
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} is {value!r}; expected a whole number of at least {least}.")
        for name, example in (("learning_rate", "1e-3"), ("minutes", "30")):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value!r}; expected a positive number, such as {example}.")
        if self.weights not in get_args(Weights):
            raise ConfigError(f"weights is {self.weights!r}; expected one of {', '.join(get_args(Weights))}.")
        if self.steps is not None and self.minutes is not None:
            raise ConfigError(
                f"steps is {self.steps} and minutes is {self.minutes}; they say the same in two ways. Name one of them."
            )

    @property
    def rate(self) -> float:
        """Peak of the learning rate."""
        return RATES[self.weights] if self.learning_rate is None else self.learning_rate

    def schedule(self, step: float, measurement: float) -> Schedule:
        """The steps and the measurements between them.

        Args:
            step: seconds that a step takes.
            measurement: seconds that a measurement on the held-out samples takes.
        """
        steps, measurements = self.steps or DEFAULT_STEPS, MEASUREMENTS
        if self.minutes is not None:
            left = 60 * self.minutes - measurement  # the last one is due in any case
            measurements = min(MEASUREMENTS, 1 + int(MEASURING * max(left, 0.0) / measurement))
            steps = max(1, int((left - (measurements - 1) * measurement) / step))
        return Schedule(steps, self.save_every or max(1, math.ceil(steps / measurements)))

    def data(self, written: GrailConfig, dataset: DataSource | None) -> DataRequest:
        """What the compression asked of its data, with ``dataset`` and this recipe's own in its place; no labels."""
        return dataclasses.replace(
            DataRequest.of(written),
            dataset=dataset,
            label_column=None,
            num_samples=self.num_samples,
            seqlen=written.seqlen if self.seqlen is None else self.seqlen,
            batch_size=None,
            seed=self.seed,
        )

    def note(self, folder: Path, **origin: str) -> None:
        """Write the recipe into a working folder, or check that the one there is the same.

        Raises:
            CheckpointError: the folder holds the states of another recovery.
        """
        mine = {**dataclasses.asdict(self), **origin}
        path = folder / RECOVERY_FILE
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != mine:
            raise CheckpointError(
                f"{str(folder)!r} holds an interrupted recovery with other settings. Repeat it with the same ones to "
                "resume, or remove the folder to start anew."
            )
        path.write_text(json.dumps(mine, indent=2) + "\n", encoding="utf-8")

    def scheduled(self, folder: Path, step: Callable[[], float], measurement: float) -> Schedule:
        """The schedule that a working folder holds; made, and kept there, where there is none yet.

        Args:
            folder: the working folder.
            step: gives the seconds of a step; called where they matter only.
            measurement: seconds of a measurement.
        """
        path = folder / SCHEDULE_FILE
        if not path.is_file():
            made = self.schedule(0.0 if self.minutes is None else step(), measurement)
            path.write_text(json.dumps(dataclasses.asdict(made)) + "\n", encoding="utf-8")
        return Schedule(**json.loads(path.read_text(encoding="utf-8")))
