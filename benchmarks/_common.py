"""What the benchmarks share: where data lies, what a run ran on, how results are written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from optimum_grail.report.environment import hardware, versions

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
EMBEDDED = REPOSITORY / "examples" / "llama-books-3m"


def data_folder() -> Path:
    """Folder of models and data sets: ``OPTIMUM_GRAIL_TEST_DATA``, or ``shared/data`` beside the checkout."""
    return Path(os.environ.get("OPTIMUM_GRAIL_TEST_DATA", REPOSITORY.parent / "shared" / "data"))


def models_folder() -> Path:
    """Folder of models that are too large for the data folder: ``OPTIMUM_GRAIL_MODELS``, or ``models`` beside the
    checkout."""
    return Path(os.environ.get("OPTIMUM_GRAIL_MODELS", REPOSITORY.parent / "models"))


def environment() -> dict[str, Any]:
    """Versions, hardware and threads, for a result file."""
    return {"versions": versions(), "hardware": hardware(), "threads": torch.get_num_threads()}


def read_results(name: str) -> dict[str, Any]:
    """The result file ``name``, or an empty dictionary."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_results(name: str, value: dict[str, Any]) -> None:
    """Replace the result file ``name``; never leaves half of one behind."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    draft = path.with_suffix(".json.part")
    draft.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
