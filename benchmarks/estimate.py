"""How near the estimate that a run prints is to what the run takes: seconds and memory, told and measured.

Every run has a process of its own, so that its memory is its own. Rows go to ``benchmarks/results/estimate.json`` as
soon as they are there; one that is there already is not measured again unless ``--redo`` asks for it. Models and data
that are absent are passed over. Run it on an idle machine.

    python benchmarks/estimate.py [--only MODEL] [--redo]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin while waiting cost most

from _common import data_folder, environment, read_results, write_results
from _experiments import TASKS, WINDOWS, Source, Task, shared
from _memory import peak_above

from optimum_grail import GrailCompressor

RESULT, FACTOR = "estimate", 1.5
"""The result file; and by how much an estimate may be off."""
NAMES = ("llama-books-3m", "all-MiniLM-L6-v2", "vit-cifar10")
SMOL = "SmolLM2-135M-Instruct"
LARGER = Task(
    SMOL,
    partial(shared, SMOL),
    Source("wikitext-2/valid.parquet"),
    Source("wikitext-2/test.parquet"),
    "perplexity",
    {"20 %": {"sparsity": 0.2}},
    {"num_samples": 32, "seqlen": 256},
    WINDOWS,
)
REFERENCES = (*(task for task in TASKS if task.name in NAMES), LARGER)
SHORT = Source("tinystories-sample/sample.parquet", "train[:100]")
"""What language models are measured on: little, for the estimate of it is what is judged."""


def measured(task: Task) -> dict[str, Any]:
    """One run by the defaults: what was told before, and what it took."""
    compressor = GrailCompressor.from_pretrained(task.model(), {"sparsity": 0.2, **task.settings})
    data = task.calibration.read()
    evaluation = (SHORT if task.metric == "perplexity" else task.evaluation).read()
    outlook = compressor.forecast(data, eval_dataset=evaluation).outlook
    if outlook is None:
        raise SystemExit(f"{task.name}: the defaults need no data, so nothing is told.")
    start = time.perf_counter()
    peak = peak_above(lambda: compressor.compress(calibration_dataset=data, eval_dataset=evaluation))
    seconds = dict(compressor.report.seconds)
    taken = sum(seconds.values())
    return {
        "model": task.name,
        "told_seconds": outlook.cost.seconds,
        "taken_seconds": taken,
        "factor_seconds": taken / outlook.cost.seconds,
        "told_memory": outlook.cost.memory,
        "taken_memory": peak,
        "factor_memory": None if peak is None else peak / outlook.cost.memory,
        "whole_run_seconds": time.perf_counter() - start,
        "stages": seconds,
        **environment(),
    }


def main() -> None:
    """Measure what is missing and say where the estimate is off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="MODEL", choices=[task.name for task in REFERENCES])
    parser.add_argument("--redo", action="store_true", help="measure again what is there")
    parser.add_argument("--here", action="store_true", help="measure --only in this process and print the row")
    options = parser.parse_args()
    chosen = [task for task in REFERENCES if options.only in (None, task.name)]
    if options.here:
        print(json.dumps(measured(chosen[0])))
        return
    rows = (
        {} if options.redo and not options.only else {row["model"]: row for row in read_results(RESULT).get("rows", [])}
    )
    for task in chosen:
        if task.name in rows and not options.redo:
            continue
        if task.model() is None:
            print(f"{task.name}: not in {data_folder()}, passed over", file=sys.stderr)
            continue
        command = [sys.executable, __file__, "--only", task.name, "--here"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows[task.name] = json.loads(done.stdout.splitlines()[-1])
        write_results(RESULT, {"rows": list(rows.values())})
    for row in rows.values():
        off = "" if 1 / FACTOR <= row["factor_seconds"] <= FACTOR else f"  off by more than {FACTOR}"
        told, taken = row["told_seconds"], row["taken_seconds"]
        print(f"{row['model']}: told {told:.1f} s, took {taken:.1f} s (x {row['factor_seconds']:.2f}){off}")


if __name__ == "__main__":
    main()
