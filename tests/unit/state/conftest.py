"""A run that ends in its second block, for tests of the state that it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.compressor import GrailCompressor
from optimum_grail.report.progress import Silent

Interrupt = Callable[[Mapping[str, Any], Sequence[Any]], Path]


class Stopped(Exception):
    """Ends a run."""


class InSecondBlock(Silent):
    """Ends a run when the second block is about to be done."""

    running = ""

    def start(self, total: int, description: str) -> None:
        self.running = description

    def update(self, advance: int, description: str) -> None:
        if self.running == "compressing" and description.startswith("model.layers.1"):
            raise Stopped


@pytest.fixture(scope="module")
def interrupt(tmp_path_factory: pytest.TempPathFactory) -> Interrupt:
    """Configuration and rows to the folder in which a run that was ended in its second block was to write ``out``."""

    def run(config: Mapping[str, Any], rows: Sequence[Any]) -> Path:
        place = tmp_path_factory.mktemp("interrupted")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("optimum_grail.state.budget.SHARE", 1e9)
            with pytest.raises(Stopped):
                GrailCompressor(tiny_llama(), config).compress(rows, place / "out", progress=InSecondBlock())
        return place

    return run
