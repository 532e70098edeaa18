"""What the scripts per family share: arguments, the run, the table."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimum_grail import GrailCompressor
from optimum_grail.errors import GrailError
from optimum_grail.evaluation.evaluate import evaluate_path
from optimum_grail.report.table import number

DATA = Path(os.environ.get("OPTIMUM_GRAIL_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def arguments(description: str, num_samples: int, eval_samples: int | None = None) -> argparse.Namespace:
    """``--data``, ``--num-samples``, ``--eval-samples`` and ``--json``.

    Args:
        description: its first line is the script's help.
        num_samples: rows to calibrate on where nothing is said.
        eval_samples: rows to measure on where nothing is said; default: all.
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of models and data sets")
    parser.add_argument("--num-samples", type=int, default=num_samples, help="rows to calibrate on")
    parser.add_argument("--eval-samples", type=int, default=eval_samples, help="rows to measure on")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def present(path: Path) -> Path:
    """``path``, or exit with what is missing."""
    if not path.exists():
        raise SystemExit(f"{path} is missing. Name the folder that holds it with --data.")
    return path


def compare(
    options: argparse.Namespace,
    model: Path,
    config: Mapping[str, Any],
    calibration: Any,
    metric: str,
    data: Any,
) -> None:
    """Compress, save, load again, and print the metric of both models."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            small = Path(scratch) / "small"
            compressor = GrailCompressor.from_pretrained(model, {**config, "num_samples": options.num_samples})
            compressor.compress(calibration, small)
            rows = {
                name: evaluate_path(folder, data, metric, num_samples=options.eval_samples)
                for name, folder in (("dense", model), ("compressed", small))
            }
    except GrailError as error:
        raise SystemExit(f"Error: {error}") from error
    report = compressor.report
    headline = next(key for key, value in rows["dense"].items() if isinstance(value, float))
    found = {name: row[headline] for name, row in rows.items()}
    if options.json:
        print(json.dumps({"metric": headline, "achieved": report.achieved, **found}))
        return
    print(
        f"{report.parameters_before:,} parameters, {report.parameters_after:,} after "
        f"({report.achieved:.0%} of the blocks gone)"
    )
    for name, value in found.items():
        print(f"{name:>12}: {headline} {number(value, 4)}")
