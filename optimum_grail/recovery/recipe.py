"""What a recovery does, as a value."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_grail.config.config import GrailConfig
from optimum_grail.data.request import DataRequest
from optimum_grail.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from optimum_grail.data.foreign import DataSource

RECOVERY_FILE = "recovery.json"


@dataclass(frozen=True)
class Recipe:
    """Settings of a recovery.

    Args:
        steps: optimizer steps.
        learning_rate: its peak; warms up over a twentieth of the steps and falls along a cosine.
        rank: rank of the LoRA factors; their scale is 2.
        batch_size: samples per step.
        num_samples: samples to train on and, every fifth, to measure on.
        seqlen: tokens per sample; the compression's when ``None``.
        seed: of the samples, their order and the factors.
        save_every: steps between two states that an interrupted run is resumed from.

    Raises:
        ConfigError: a number out of its range.
    """

    steps: int = 200
    learning_rate: float = 1e-3
    rank: int = 16
    batch_size: int = 8
    num_samples: int = 320
    seqlen: int | None = None
    seed: int = 0
    save_every: int = 50

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("rank", 1), ("batch_size", 1), ("num_samples", 5), ("save_every", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} is {value!r}; expected a whole number of at least {least}.")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate is {self.learning_rate!r}; expected a positive number, such as 1e-3.")

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
