"""How much the readout depends on its calibration: number of sequences, another corpus, the model's dtype.

Everything on the embedded LLaMA at 50 %, the same widths for all methods. Rows go to
``benchmarks/results/robustness-CORPUS-DTYPE.json`` (the corpus that is tested on) as soon as they are there.

    python benchmarks/robustness.py [--only CORPUS-DTYPE]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin while waiting cost most

import datasets
import transformers
from _common import EMBEDDED, RESULTS
from _experiments import Source

from optimum_grail.checkpoints.loading import load_model
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.evaluation.evaluate import make_metric
from optimum_grail.sweep import Cell, Sweep

COMPENSATORS = ("none", "grail", "grail-plus")
SAMPLES = (8, 32, 128, 512)
CALIBRATION = {"books": Source("classic-books/valid.parquet"), "wikitext": Source("wikitext-2/valid.parquet")}
TESTS = {"books": Source("classic-books/test.parquet"), "wikitext": Source("wikitext-2/test.parquet")}
RUNS = {
    "books-bfloat16": ("books", "auto"),
    "wikitext-bfloat16": ("wikitext", "auto"),
    "books-float32": ("books", "float32"),
}


def cells(corpus: str, samples: int) -> list[Cell]:
    """All compensators on one calibration set."""
    base: Mapping[str, Any] = {"selector": "obs", "allocation": "uniform", "within_block": "sequential", "seqlen": 256}
    return [
        Cell(
            f"obs + {name}",
            f"{samples} x {corpus}",
            {**base, "compensator": name, "num_samples": samples, "sparsity": 0.5, "seed": 42},
        )
        for name in COMPENSATORS
    ]


def run(name: str) -> None:
    """One tested corpus and dtype."""
    corpus, dtype = RUNS[name]
    model = load_model(str(EMBEDDED), dtype=dtype, device="cpu", trust_remote_code=False)
    tokenizer, processor = load_processors(str(EMBEDDED), False)
    metric = make_metric("perplexity", {"seqlen": 256, "max_tokens": 40960})
    rows = metric.read(TESTS[corpus].read())
    for source, data in CALIBRATION.items():
        if name == "books-float32" and source != corpus:
            continue
        sweep = Sweep(
            model,
            measure=lambda item: metric(item, tokenizer, processor, rows),
            headline=metric.headline,
            dataset=data.read(),
            tokenizer=tokenizer,
            source=f"llama-books-3m, {name}",
        )
        counts = SAMPLES if source == corpus == "books" and dtype == "auto" else (128,)
        planned = [cell for count in counts for cell in cells(source, count)]
        sweep.run(planned, RESULTS, name=f"robustness-{name}.json")
        print(f"{name}, calibrated on {source}: done", file=sys.stderr, flush=True)


def main() -> None:
    """Read the command line, run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=list(RUNS))
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name in RUNS:
        if options.only in (None, name):
            try:
                run(name)
            except FileNotFoundError as error:
                print(f"{name}: {error}, passed over", file=sys.stderr)


if __name__ == "__main__":
    main()
