"""Patterns of zeros side by side: ours, SparseGPT, Wanda and magnitude at 2:4, and smaller layers of as many weights.

A row is one compression of one model, calibrated on the general corpus; perplexity on four texts as in ``corpora.py``.
The structured row takes half of the blocks' parameters away, which is what the pattern sets to zero. Rows go to
``benchmarks/results/patterns-MODEL.json`` as soon as they are there and are not measured again.
``python benchmarks/patterns_tables.py`` writes the table of the guide.

    python benchmarks/patterns.py [--only MODEL] [--draws N] [--windows 64]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from itertools import product
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin while waiting cost most

import datasets
import transformers
from _common import environment, read_results, write_results
from corpora import MODELS, Model, scores
from patterns_tables import NAMES, section

from optimum_grail import GrailCompressor
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.hub.metadata import without_folders

PATTERN = {"pattern": "2:4"}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "grail": {**PATTERN, "pattern_selector": "grail"},
    "sparsegpt": {**PATTERN, "pattern_selector": "sparsegpt"},
    "wanda": {**PATTERN, "pattern_selector": "wanda"},
    "magnitude": {**PATTERN, "pattern_selector": "magnitude"},
    "structured": {"sparsity": 0.5},
}
SEEDS = (0, 1, 2)
"""One draw of windows each."""


def measured(model: Model, method: str, seed: int, windows: int) -> dict[str, Any]:
    """Compress and measure."""
    folder = str(model.folder)
    tokenizer, _ = load_processors(folder, False)
    key = {"method": method, "seed": seed, "windows": windows}
    if method == "dense":
        return {**key, "scores": scores(load_model(folder).float(), tokenizer, model), **environment()}
    config = {**METHODS[method], "dataset": "general", "num_samples": windows, "seqlen": model.seqlen, "seed": seed}
    compressor = GrailCompressor.from_pretrained(folder, config)
    small = compressor.compress().float()
    report = compressor.report
    return {
        **key,
        "scores": scores(small, tokenizer, model),
        "calibration": report.calibration and without_folders(asdict(report.calibration)),
        "config": without_folders(report.config),
        "seconds": dict(report.seconds),
        **environment(),
    }


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NAMES, metavar="MODEL")
    parser.add_argument("--draws", type=int, default=len(SEEDS), metavar="N")
    parser.add_argument("--windows", type=int, default=64, metavar="N")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    for model in (item for item in MODELS if item.name in NAMES and options.only in (None, item.name)):
        if model.folder is None:
            print(f"{model.name} is absent, passed over", file=sys.stderr)
            continue
        cells = [("dense", 0, 0), *((m, s, options.windows) for s, m in product(SEEDS[: options.draws], METHODS))]
        for method, seed, windows in cells:
            rows = read_results(f"patterns-{model.name}").get("rows", [])
            if any((row["method"], row["seed"], row["windows"]) == (method, seed, windows) for row in rows):
                continue
            print(f"{model.name}: {method}, draw {seed}", file=sys.stderr, flush=True)
            row = measured(model, method, seed, windows)
            write_results(f"patterns-{model.name}", {"rows": [*rows, row]})
    print(section())


if __name__ == "__main__":
    main()
