"""Every method of the literature at every size: presets, our allocations, and each selector alone and refitted.

Rows are written as soon as they are there, to ``benchmarks/results/methods-MODEL.json``; rows that are there already
are not measured again. The models are measured in memory (``quality.py`` goes through saved checkpoints). Models and
data that are absent are passed over. Cells come in the order of their weight: a run that is cut off has the most useful
ones.

    python benchmarks/methods.py [--only MODEL] [--method NAME ...] [--budget NAME ...] [--draws N]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin while waiting cost most

import datasets
import transformers
from _common import REPOSITORY, RESULTS, data_folder
from _experiments import TASKS, Task

from optimum_grail.checkpoints.loading import load_model
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.config.presets import presets
from optimum_grail.evaluation.evaluate import make_metric
from optimum_grail.report.progress import Silent
from optimum_grail.selectors import SELECTORS
from optimum_grail.sweep import Cell, Sweep

sys.path.insert(0, str(REPOSITORY / "examples"))
import custom_module as resnet

SEEDS = (42, 43, 44)
"""One calibration draw each."""
KNAPSACK = {"selector": "obs", "compensator": "grail-plus", "allocation": "knapsack", "within_block": "sequential"}
UNIFORM = {"allocation": "uniform", "within_block": "sequential"}

OURS: Mapping[str, Mapping[str, Any]] = {
    "knapsack": KNAPSACK,
    "knapsack, producers refitted": {**KNAPSACK, "refit": "producers"},
    "knapsack, bent": {**KNAPSACK, "allocation": "knapsack:sensitivity=bent"},
    "balanced, depth": {**KNAPSACK, "allocation": "balanced:depth=true"},
    "obs + grail-plus, uniform": {**UNIFORM, "selector": "obs", "compensator": "grail-plus"},
    "obs + grail-plus, uniform, producers refitted": {
        **UNIFORM,
        "selector": "obs",
        "compensator": "grail-plus",
        "refit": "producers",
    },
    "wanda + grail, uniform": {**UNIFORM, "selector": "wanda", "compensator": "grail", "within_block": "joint"},
    "slimgpt + grail, uniform": {**UNIFORM, "selector": "slimgpt", "compensator": "grail"},
}
"""What the goals compare beside the presets."""

PAIRS: Mapping[str, Mapping[str, Any]] = {
    f"{selector} + {compensator}": {**UNIFORM, "selector": selector, "compensator": compensator}
    for selector in SELECTORS.names()
    for compensator in ("none", "grail-plus")
}
"""Every selector alone and refitted, at the same widths."""

FILTERS: Mapping[str, Mapping[str, Any]] = {
    f"L1 + {name}": {**UNIFORM, "selector": "magnitude:p=1", "compensator": name}
    for name in ("none", "grail", "grail-plus")
}
METHODS: Mapping[str, Mapping[str, Any]] = {
    **{f"preset {name}": {"preset": name} for name in presets()},
    **OURS,
    **PAIRS,
    **FILTERS,
}
TENTHS = {f"{percent} %": {"sparsity": percent / 100} for percent in (30, 50, 70, 10, 20, 40, 60)}
BUDGETS: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "llama-books-3m": TENTHS,
    "all-MiniLM-L6-v2": {
        f"heads and FFN {percent} %": {"head_sparsity": percent / 100, "ffn_sparsity": percent / 100}
        for percent in (50, 30, 70)
    },
    "vit-cifar10": {f"{percent} %": {"sparsity": percent / 100} for percent in (50, 30, 70)},
    "clip-emoji": {f"{percent} %": {"sparsity": percent / 100} for percent in (50, 30, 70)},
    "resnet20": {f"channels {percent} %": {"channel_sparsity": percent / 100} for percent in (50, 65, 80, 30)},
}
"""Sizes per model, the weightiest first."""
MIDDLE = {"llama-books-3m": "50 %", "all-MiniLM-L6-v2": "heads and FFN 50 %", "resnet20": "channels 65 %"}
"""The size at which selectors are measured alone and refitted; 50 % where none is named."""


def planned(task: Task, methods: Sequence[str], budgets: Sequence[str], seed: int) -> Iterator[Cell]:
    """The cells of one model and one calibration draw: all methods at one size before the next size."""
    for budget, fields in BUDGETS[task.name].items():
        if budgets and budget not in budgets:
            continue
        for name in methods:
            if name in PAIRS and budget != MIDDLE.get(task.name, "50 %"):
                continue
            config = {**task.settings, **fields, **METHODS[name], "seed": seed}
            yield Cell(name, budget, config)


def names_for(task: Task, draw: int) -> list[str]:
    """The methods that a model is measured with on a draw, in order; selectors alone and refitted on the first only."""
    head = [*(name for name in OURS if "bent" not in name), *(name for name in METHODS if name.startswith("preset "))]
    if task.metric == "resnet":
        head = ["knapsack, bent", *(name for name in head if "depth" not in name)]
    return [*head, *(FILTERS if task.metric == "resnet" else ()), *(PAIRS if draw == 0 else ())]


def sweep_of(task: Task, folder: Path, draw: int) -> Sweep:
    """The model with its data and its metric; ``draw`` counts from 0."""
    if task.metric == "resnet":
        return resnet_sweep(task, draw)
    model = load_model(str(folder), dtype="auto", device="cpu", trust_remote_code=False)
    tokenizer, processor = load_processors(str(folder), False)
    metric = make_metric(task.metric, dict(task.measure))
    rows = metric.read(task.evaluation.read())
    return Sweep(
        model,
        measure=lambda item: metric(item, tokenizer, processor, rows),
        headline=metric.headline,
        higher_is_better=metric.higher_is_better,
        dataset=task.calibration.read(),
        tokenizer=tokenizer,
        processor=processor,
        source=task.name,
        progress=Told(),
    )


def resnet_sweep(task: Task, draw: int) -> Sweep:
    """The plain module of ``examples/custom_module.py``. Its samples are taken as they come, not drawn by the seed, so
    every draw gets images of its own."""
    data = data_folder()
    model, config = resnet.load_model(data)
    count = int(task.settings["num_samples"])
    calibration = resnet.load_images(data / task.calibration.path, config, count * (draw + 1))[0][-count:]
    images, labels = resnet.load_images(data / task.evaluation.path, config)
    return Sweep(
        model,
        measure=lambda item: {"accuracy": resnet.accuracy(item, images, labels), "rows": len(labels)},
        headline="accuracy",
        higher_is_better=True,
        dataset=[{"images": image} for image in calibration],
        spec=resnet.SPEC,
        source=task.name,
        progress=Told(),
    )


class Told(Silent):
    """Says which cell runs."""

    def message(self, text: str) -> None:
        """Print it."""
        if " of " in text:
            print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Read the command line, run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=list(BUDGETS), help="one model only")
    parser.add_argument("--method", nargs="+", metavar="NAME", choices=list(METHODS), help="these methods only")
    parser.add_argument("--budget", nargs="+", metavar="NAME", default=(), help="these sizes only")
    parser.add_argument("--draws", type=int, default=3, choices=(1, 2, 3), help="calibration draws (3)")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for task in TASKS:
        folder = task.model() if task.name in BUDGETS and options.only in (None, task.name) else None
        if folder is None:
            continue
        for draw, seed in enumerate(SEEDS[: options.draws]):
            try:
                sweep = sweep_of(task, folder, draw)
            except FileNotFoundError as error:
                print(f"{task.name}: {error}, passed over", file=sys.stderr)
                break
            cells = planned(task, options.method or names_for(task, draw), options.budget, seed)
            sweep.run(list(cells), RESULTS, name=f"methods-{task.name}.json")


if __name__ == "__main__":
    main()
