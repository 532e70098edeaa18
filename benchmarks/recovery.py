"""How much a short training wins back, by what is trained and on what, beside plain fine-tuning of the same minutes.

Every row is one training of one compressed model. Ours learns the dense model's distribution on text that the dense
model writes, or on the general corpus; plain fine-tuning, which is how others recover, learns the next token of the
general corpus. All get the same minutes: trial steps say how many fit. A model is compressed once (the default preset)
and kept under ``--place``. Perplexities on four texts, as in ``corpora.py``; the divergence from the dense model on
held-out rows of what is trained on, along the way. Rows go to ``benchmarks/results/recovery-MODEL.json`` as soon as
they are there and are not measured again; an interrupted training goes on where it was.
``python benchmarks/recovery_tables.py`` makes the page. Meant for an idle machine: five trainings a size.

    python benchmarks/recovery.py [--only MODEL] [--size 20 30] [--way NAME ...] [--minutes 30] [--threads 2]
                                  [--place DIR]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin while waiting cost most

import datasets
import torch
import transformers
from _common import REPOSITORY, environment, read_results, write_results
from corpora import MODELS, Model, scores
from recovery_tables import section

from optimum_grail import GrailCompressor, Report
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.sources import load_calibration
from optimum_grail.errors import RecoveryError
from optimum_grail.models.resolve import resolve
from optimum_grail.recovery import Recipe, recover
from optimum_grail.recovery.distil import samples_of

MINUTES: Mapping[str, float] = {"SmolLM2-135M-Instruct": 30, "llama-books-3m": 3}
"""Model to the minutes of a training where none are named."""
PLAIN = "plain fine-tuning, all weights, general text"
OURS: Mapping[str, Mapping[str, Any]] = {
    "LoRA, own text": {"weights": "lora"},
    "all weights, own text": {"weights": "full"},
    "LoRA, general text gone on with": {"weights": "lora", "dataset": "general"},
    "all weights, general text as it is": {"weights": "full", "dataset": "general", "rewrite": False},
}
"""What is trained, on what; without a data set on text of the dense model's own."""
SIZES = (30, 20)
WINDOWS = 64


@dataclass(frozen=True)
class Cell:
    """One training.

    Args:
        model: what was compressed.
        size: percent of the blocks' parameters that are gone.
        way: of :data:`OURS`, :data:`PLAIN`, or ``"compressed"`` and ``"dense"`` for what is compared with.
        minutes: of training.
    """

    model: Model
    size: int
    way: str
    minutes: float

    @property
    def key(self) -> dict[str, Any]:
        """What tells rows apart."""
        return {"size": self.size, "way": self.way, "minutes": self.minutes}


def compressed(cell: Cell, place: Path) -> Path:
    """Folder of the compressed model, made where it is not there."""
    folder = place / f"{cell.model.name}-{cell.size}"
    if not folder.is_dir():
        config = {"sparsity": cell.size / 100, "num_samples": WINDOWS, "seqlen": cell.model.seqlen}
        GrailCompressor.from_pretrained(str(cell.model.folder), config).compress(save_directory=folder)
    return folder


def recovered(cell: Cell, folder: Path, place: Path) -> tuple[Any, dict[str, Any]]:
    """The model after a recovery, and what its report says."""
    settings = dict(OURS[cell.way])
    dataset = settings.pop("dataset", None)
    recipe = Recipe(minutes=cell.minutes, seqlen=cell.model.seqlen, **settings)
    output = place / f"{cell.model.name}-{cell.size}-{'-'.join(cell.way.replace(',', '').split())}"
    start = time.perf_counter()
    try:
        report = recover(folder, output, recipe, base_model=str(cell.model.folder), dataset=dataset, overwrite=True)
    except RecoveryError as error:  # nothing was won: the compressed model is what a user is left with
        return load_model(folder), {"told": str(error), "seconds": time.perf_counter() - start}
    found = {key: report.recovery[key] for key in ("kl_before", "kl_after", "curve", "steps", "learning_rate")}
    model = load_model(output)
    shutil.rmtree(output)
    return model, {**found, "seconds": time.perf_counter() - start}


def fine_tuned(cell: Cell, folder: Path, place: Path) -> tuple[Any, dict[str, Any]]:
    """The model after as many minutes of learning the next token, by transformers' Trainer and its ways."""
    start = time.perf_counter()
    model = load_model(folder).float()
    recipe = Recipe(minutes=cell.minutes, weights="full", seqlen=cell.model.seqlen)
    recipient = Recipient.of(model, resolve(model), *load_processors(str(folder), False))
    request = DataRequest(dataset="general", num_samples=recipe.num_samples, seqlen=cell.model.seqlen, seed=recipe.seed)
    rows = samples_of(load_calibration(recipient, request).batches, held=False)
    samples = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in rows]
    steps = int(60 * cell.minutes / step_seconds(model, samples[: recipe.batch_size]))
    arguments = transformers.TrainingArguments(
        output_dir=str(place / "fine-tuning"),
        max_steps=steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.rate,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 20,
        seed=recipe.seed,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    transformers.Trainer(model, arguments, train_dataset=samples).train()
    return model.eval(), {"steps": steps, "learning_rate": recipe.rate, "seconds": time.perf_counter() - start}


def step_seconds(model: Any, samples: list[dict[str, torch.Tensor]]) -> float:
    """Seconds of one step, the second of two trials."""
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    start = 0.0
    for _ in range(2):
        start = time.perf_counter()
        model.train()(**batch).loss.backward()
        model.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def measured(cell: Cell, place: Path) -> dict[str, Any]:
    """Train and measure."""
    tokenizer, _ = load_processors(str(cell.model.folder), False)
    before = os.getloadavg()[0]
    found: dict[str, Any] = {}
    if cell.way == "dense":
        model = load_model(str(cell.model.folder))
    else:
        folder = compressed(cell, place)
        report = Report.load(folder)
        found = {"parameters": report.parameters_after, "config": {"preset": report.config.get("preset")}}
        ways = {"compressed": lambda *_: (load_model(folder), {}), PLAIN: fine_tuned}
        model, more = ways.get(cell.way, recovered)(cell, folder, place)
        found |= more
    return {
        **cell.key,
        **found,
        "scores": scores(model.float().eval(), tokenizer, cell.model),
        "load_before": before,
        **environment(),
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    names = [model.name for model in MODELS if model.name in MINUTES]
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--only", metavar="MODEL", choices=names)
    found.add_argument("--size", nargs="+", type=int, default=SIZES, metavar="PERCENT")
    found.add_argument("--way", nargs="+", choices=[*OURS, PLAIN], default=[*OURS, PLAIN], metavar="NAME")
    found.add_argument(
        "--minutes", type=float, metavar="N", help="of each training; by default 30, of the small model 3"
    )
    found.add_argument("--threads", type=int, default=2, metavar="N")
    found.add_argument("--place", type=Path, default=REPOSITORY / "build" / "recovery", metavar="DIR")
    return found


def main() -> None:
    """Measure what is missing, and print the tables."""
    options = parser().parse_args()
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    options.place.mkdir(parents=True, exist_ok=True)
    for model in (model for model in MODELS if model.name in MINUTES and options.only in (None, model.name)):
        minutes = options.minutes or MINUTES[model.name]
        references = [Cell(model, 0, "dense", 0), *(Cell(model, size, "compressed", 0) for size in options.size)]
        trainings = (Cell(model, size, way, minutes) for size, way in product(options.size, options.way))
        if model.folder is None:
            print(f"{model.name} is absent, passed over", file=sys.stderr)
            continue
        result = f"recovery-{model.name}"
        for cell in (*references, *trainings):
            rows = read_results(result).get("rows", [])
            if any(all(row[key] == value for key, value in cell.key.items()) for row in rows):
                continue
            print(f"{model.name}: {cell.key}", file=sys.stderr, flush=True)
            write_results(result, {"rows": [*rows, measured(cell, options.place)]})
        print("\n".join(section(model.name)))


if __name__ == "__main__":
    main()
