"""Compressions of a sweep as checkpoints, each in a folder of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from optimum_grail.checkpoints.output import check_output
from optimum_grail.config.config import GrailConfig
from optimum_grail.data.batches import CalibrationData
from optimum_grail.errors import ConfigError
from optimum_grail.hub.metadata import inherited_from
from optimum_grail.pipeline.run import Run
from optimum_grail.pipeline.saving import Checkpoint, Savable
from optimum_grail.pipeline.summary import Outcome
from optimum_grail.report.report import REPORT_FILE

Results = Mapping[str, Any]
Rows = Callable[[Results, Results, CalibrationData | None], Sequence[Mapping[str, Any]]]
"""Results of the dense and of the compressed model, and the calibration data, to a report's evaluation rows."""


@dataclass(frozen=True)
class Folders:
    """Where every compression of one dense model goes.

    Args:
        place: the folder that holds them all.
        source: where the dense model came from.
        companions: tokenizer and processor.
        rows: makes evaluation rows of what was measured; ``None``: nothing was.
        overwrite: replace checkpoints that are there.
    """

    place: Path
    source: str
    companions: tuple[Savable, ...] = ()
    rows: Rows | None = None
    overwrite: bool = False

    def name(self, method: str, size: str) -> str:
        """Of the folder of one method and size."""
        return re.sub(r"[^\w.+-]+", "-", f"{method}-{size}")

    def has(self, method: str, size: str) -> bool:
        """Whether it is there; a checkpoint is complete or absent."""
        return os.path.isfile(self.place / self.name(method, size) / REPORT_FILE)  # false for names that are too long

    def check(self, planned: Sequence[tuple[str, str]]) -> None:
        """See that folders of ``planned`` methods and sizes can be written, before any long work.

        Raises:
            ConfigError: two of them would share a folder.
            OutputError: one exists and holds something else, or cannot be written.
        """
        names: dict[str, tuple[str, str]] = {}
        for cell in planned:
            name = self.name(*cell)
            if names.setdefault(name, cell) != cell:
                raise ConfigError(f"{names[name]} and {cell} would both be saved as {name!r}. Give one another name.")
            if not self.has(*cell):
                check_output(self.place / name, self.overwrite)

    def write(
        self, model: nn.Module, cell: tuple[str, str], config: GrailConfig, run: Run, results: tuple[Results, Results]
    ) -> str:
        """Save a compressed model as any run does; the name of its folder.

        Args:
            model: the compressed model.
            cell: method and size.
            config: the resolved configuration.
            run: what was done.
            results: what was measured of the dense and of the compressed model.

        Raises:
            OutputError: the folder cannot be written.
        """
        rows = () if self.rows is None else self.rows(*results, run.data)
        report = Outcome(self.source, None, None, config, run, (), rows, {}).report(model)
        checkpoint = Checkpoint(model, run.left, run.plan, report, self.companions, inherited_from(self.source))
        checkpoint.save(self.place / self.name(*cell), overwrite=self.overwrite)
        return self.name(*cell)
