"""What compression costs in quality: every experiment of ``_experiments.py``, compressed, saved, reloaded, measured.

Each row is written as soon as it is there, to ``benchmarks/results/quality-MODEL.json``; a row that is there already is
not measured again unless ``--redo`` asks for it. Models and data that are absent are passed over.

    python benchmarks/quality.py [--only MODEL] [--redo]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin while waiting cost most

import datasets
import transformers
from _common import REPOSITORY, data_folder, environment, read_results, write_results
from _experiments import METHODS, TASKS, Task

from optimum_grail import GrailCompressor, GrailConfig, Report, load_compressed_
from optimum_grail.evaluation.evaluate import evaluate_path
from optimum_grail.evaluation.metrics import METRICS

sys.path.insert(0, str(REPOSITORY / "examples"))
import custom_module as resnet

SEED = 42


class Bench:
    """One task with its data read.

    Args:
        task: the task.
        model: folder of its dense model.
    """

    def __init__(self, task: Task, model: Path) -> None:
        self.task, self.model = task, model
        self.calibration, self.evaluation = task.calibration.read(), task.evaluation.read()

    def measure(self, folder: Path) -> dict[str, Any]:
        """The metric's result for a saved model."""
        found = evaluate_path(folder, self.evaluation, self.task.metric, **self.task.measure)
        return {key: value for key, value in found.items() if key not in ("model", "dataset")}

    def compress(self, config: GrailConfig, folder: Path) -> Report:
        """Compress into ``folder``."""
        compressor = GrailCompressor.from_pretrained(self.model, config)
        data = None if config.dataset == "self" else self.calibration
        compressor.compress(calibration_dataset=data, save_directory=folder)
        return compressor.report

    @property
    def headline(self) -> str:
        """Key of the figure to compare."""
        return METRICS.get(self.task.metric).headline


class ResNetBench(Bench):
    """The plain module of ``examples/custom_module.py``; its images are prepared as that script does."""

    headline = "accuracy"

    def __init__(self, task: Task, model: Path) -> None:
        self.task, self.model, self.data = task, model, data_folder()
        self.dense, config = resnet.load_model(self.data)
        self.calibration, _ = resnet.load_images(
            self.data / task.calibration.path, config, int(task.settings["num_samples"])
        )
        self.evaluation = resnet.load_images(self.data / task.evaluation.path, config)

    def measure(self, folder: Path) -> dict[str, Any]:
        """Accuracy of a saved module."""
        module = self.dense if folder == self.model else load_compressed_(resnet.ResNet().eval(), folder, resnet.SPEC)
        return {"accuracy": resnet.accuracy(module, *self.evaluation), "rows": len(self.evaluation[1])}

    def compress(self, config: GrailConfig, folder: Path) -> Report:
        """Compress into ``folder``."""
        module, _ = resnet.load_model(self.data)
        compressor = GrailCompressor(module, config, spec=resnet.SPEC, source=self.task.name)
        compressor.compress([{"images": image} for image in self.calibration], folder)
        return compressor.report


def experiments(task: Task) -> Iterator[tuple[str, str]]:
    """Budget and method of every row; the dense model first."""
    yield "", "dense"
    for budget in task.budgets:
        for method in task.methods:
            yield budget, method


def compressed_row(bench: Bench, budget: str, method: str) -> dict[str, Any]:
    """Compress, save, reload, measure."""
    task = bench.task
    config = GrailConfig(seed=SEED, **{**task.settings, **task.budgets[budget], **METHODS[method]})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        report = bench.compress(config, folder)
        result = bench.measure(folder)
    calibration = report.calibration
    return {
        "result": result,
        "config": {key: value for key, value in report.config.items() if value is not None},
        "calibration": None
        if calibration is None
        else {
            "source": "self" if config.dataset == "self" else task.calibration.name,
            "sha256": calibration.sha256,
            "samples": calibration.samples,
            "tokens": calibration.tokens,
        },
        "achieved": {"blocks": report.achieved, "model": report.achieved_model, "units": report.achieved_units},
        "widths": {row.name: [row.units_before, row.units_after] for row in report.groups},
        "plain_kept": sum(row.gated for row in report.groups),
        "standalone": report.standalone,
        "compress_seconds": dict(report.seconds),
        "warnings": list(report.warnings),
    }


def run(task: Task, redo: bool) -> None:
    """Measure what is missing of ``task``, row by row."""
    model = task.model()
    if model is None:
        print(f"{task.name}: the model is absent, passed over", file=sys.stderr)
        return
    name = f"quality-{task.name}"
    known = {} if redo else stored(name)
    missing = [key for key in experiments(task) if key not in known]
    if not missing:
        print(f"{task.name}: all {len(known)} rows are there", file=sys.stderr)
        return
    bench = (ResNetBench if task.metric == "resnet" else Bench)(task, model)
    for number, (budget, method) in enumerate(missing, start=1):
        start = time.perf_counter()
        row: dict[str, Any] = {"budget": budget, "method": method, "seed": SEED}
        row |= {"result": bench.measure(model)} if method == "dense" else compressed_row(bench, budget, method)
        row |= {"seconds": time.perf_counter() - start, **environment()}
        write_results(name, summary(bench, {**stored(name), (budget, method): row}))
        value = row["result"][bench.headline]
        print(
            f"{task.name} {number}/{len(missing)}  {budget} {method}: {bench.headline} {value:.4f}, "
            f"{row['seconds']:.0f} s",
            file=sys.stderr,
            flush=True,
        )


def stored(name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of a result file, by budget and method."""
    return {(row["budget"], row["method"]): row for row in read_results(name).get("rows", [])}


def summary(bench: Bench, rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[str, Any]:
    """What the result file holds."""
    order = {key: index for index, key in enumerate(experiments(bench.task))}
    return {
        "model": bench.task.name,
        "metric": bench.task.metric,
        "headline": bench.headline,
        "calibration": bench.task.calibration.name,
        "evaluation": bench.task.evaluation.name,
        "rows": [rows[key] for key in sorted(rows, key=lambda key: order.get(key, len(order)))],
    }


def main() -> None:
    """Read the command line, run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=[task.name for task in TASKS], help="one model only")
    parser.add_argument("--redo", action="store_true", help="measure again what is there already")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message=".*has no weights for its pooler")
    for task in TASKS:
        if options.only in (None, task.name):
            try:
                run(task, options.redo)
            except FileNotFoundError as error:
                print(f"{task.name}: {error}, passed over", file=sys.stderr)


if __name__ == "__main__":
    main()
