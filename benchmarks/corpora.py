"""How a compressed model does on texts that it was not calibrated on: methods and calibration texts compared.

Every row is one compression. A language model is measured on four texts: WikiText-2, classic books, tinystories and the
documentation of Python; a model of embeddings on STS-B, calibrated on its sentences and on others. The same share of
every feed-forward layer goes, so that nothing but selection and compensation differs. Rows are written to
``benchmarks/results/corpora-MODEL.json`` as soon as they are there; one that is there is not measured again. Models and
data that are absent are passed over. Cells come in the order of their weight: a run that is cut off has the most useful
ones. ``python benchmarks/corpora_tables.py`` makes the page.

    python benchmarks/corpora.py [--only MODEL] [--method NAME ...] [--text NAME ...] [--size 30 ...] [--windows 64 ...]
                                 [--draws N]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin while waiting cost most

import datasets
import transformers
from _common import EMBEDDED, data_folder, environment, read_results, write_results
from _experiments import minilm, shared
from corpora_tables import section

from optimum_grail import GrailCompressor
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.errors import DataError
from optimum_grail.evaluation.evaluate import make_metric
from optimum_grail.hub.metadata import without_folders

SMOL, BOOKS, MINILM = "SmolLM2-135M-Instruct", "llama-books-3m", "all-MiniLM-L6-v2"
SEEDS = (0, 1)
"""One calibration draw each."""
UNIFORM: Mapping[str, Any] = {"allocation": "uniform"}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "grail-plus": {"preset": "grail-plus", **UNIFORM},
    "grail-plus, producers refitted": {"preset": "grail-plus", "refit": "producers", **UNIFORM},
    "grail-plus, gate sources": {"preset": "grail-plus", "compensator": "grail-plus:gate=sources", **UNIFORM},
    "grail-plus, target self": {"preset": "grail-plus", "target": "self", **UNIFORM},
    "grail-plus, errors alike": {"preset": "grail-plus", "selector": "obs:across=mean", **UNIFORM},
    "grail-plus, worst source": {"preset": "grail-plus", "selector": "obs:across=max", **UNIFORM},
    "grail": {"preset": "grail", **UNIFORM},
    "flap+grail": {"preset": "flap+grail", **UNIFORM},
    "slimgpt+grail": {"preset": "slimgpt+grail", **UNIFORM},
    "ziplm": {"preset": "ziplm", **UNIFORM},
}
"""Ours, the published method, and what else of the literature refits."""
TEXTS: Mapping[str, Mapping[str, float]] = {
    "general + self": {"general": 2, "self": 1},
    "wikitext-2": {"wikitext-2/train.parquet": 1},
    "STS-B": {"stsb/train.csv": 1},
    "general": {"general": 1},
    "self": {"self": 1},
    "self, starts general": {"self:starts=general": 1},
    "self, starts frequent": {"self:starts=frequent": 1},
    "self, starts chat": {"self:starts=chat": 1},
    "self, no loops": {"self:loops=restart": 1},
    "self, temperature 0.8": {"self:temperature=0.8": 1},
    "self, nucleus 0.95": {"self:top_p=0.95": 1},
    "wikitext-2 + books": {"wikitext-2/train.parquet": 1, "classic-books/valid.parquet": 1},
}
"""Calibration texts: weights of their sources, which are files of the data folder where they look like such."""
FULL = ("general + self", "wikitext-2")
"""The texts that every method is measured with; the others only with ours."""
SIZES, WINDOWS = (30, 20), (64, 256)
"""Percent of every feed-forward layer that goes, and windows of calibration text."""


@dataclass(frozen=True)
class Model:
    """A model and what it is measured by.

    Args:
        name: of the result file.
        folder: where it is, or ``None`` where it is absent.
        seqlen: tokens of a window, of calibration and of evaluation; of a row at most.
        metric: as ``optimum-cli grail evaluate --metric``.
        texts: names of :data:`TEXTS` that suit it; all but STS-B.
        rows: calibration rows per window of a language model.
    """

    name: str
    folder: Path | None
    seqlen: int
    metric: str = "perplexity"
    texts: tuple[str, ...] = tuple(name for name in TEXTS if name != "STS-B")
    rows: int = 1


MODELS = (
    Model(SMOL, shared(SMOL), 512),
    Model(BOOKS, EMBEDDED, 256),
    Model(MINILM, minilm(), 128, "spearman", ("general", "STS-B", "wikitext-2"), rows=16),
)


@dataclass(frozen=True)
class Cell:
    """One compression to be measured.

    Args:
        model: what is compressed.
        method: of :data:`METHODS`, or ``"dense"``.
        text: of :data:`TEXTS`.
        size: percent of every feed-forward layer that goes.
        windows: of calibration text.
        seed: of the draw.
    """

    model: Model
    method: str
    text: str
    size: int
    windows: int
    seed: int

    @property
    def key(self) -> dict[str, Any]:
        """What tells rows apart."""
        return {name: value for name, value in vars(self).items() if name != "model"}


def python_documentation() -> list[str]:
    """Topics of the interpreter's own help."""
    from pydoc_data.topics import topics

    return ["\n\n".join(topics.values())]


def evaluation_sets(metric: str) -> Mapping[str, tuple[Any, int | None]]:
    """Name to data and windows; ``None``: all rows."""
    data = data_folder()
    if metric == "spearman":
        return {"STS-B": (str(data / "stsb/dev.csv"), None)}
    return {
        "wikitext-2": (str(data / "wikitext-2/test.parquet"), 30),
        "books": (str(data / "classic-books/test.parquet"), 30),
        "tinystories": (str(data / "tinystories-sample/sample.parquet"), 20),
        "python-docs": (python_documentation(), 20),
    }


def scores(model: Any, tokenizer: Any, kind: Model) -> dict[str, float]:
    """The metric on every evaluation set."""
    found = {}
    for name, (data, count) in evaluation_sets(kind.metric).items():
        metric = make_metric(kind.metric, {"seqlen": kind.seqlen, "num_samples": count})
        found[name] = float(metric(model, tokenizer, None, metric.read(data))[metric.headline])
    return found


def measured(cell: Cell) -> dict[str, Any]:
    """Compress and measure."""
    folder = str(cell.model.folder)
    tokenizer, _ = load_processors(folder, False)
    start = time.perf_counter()
    if cell.method == "dense":
        model = load_model(folder, dtype="auto", device="cpu", trust_remote_code=False).float()
        return {**cell.key, "scores": scores(model, tokenizer, cell.model), **environment()}
    settings = {
        "ffn_sparsity": cell.size / 100,
        "num_samples": cell.windows * cell.model.rows,
        "seqlen": cell.model.seqlen,
    }
    config = {**METHODS[cell.method], **settings, "seed": cell.seed}
    compressor = GrailCompressor.from_pretrained(folder, config)
    model = compressor.compress(calibration_dataset=calibration(cell.text)).float()
    seconds = time.perf_counter() - start
    report = compressor.report
    return {
        **cell.key,
        "scores": scores(model, tokenizer, cell.model),
        "parameters": report.parameters_after,
        "calibration": report.calibration and without_folders(asdict(report.calibration)),
        "config": without_folders(report.config),
        "seconds": seconds,
        **environment(),
    }


def calibration(text: str) -> Any:
    """The calibration data of that name."""
    sources = {str(data_folder() / name) if "/" in name else name: weight for name, weight in TEXTS[text].items()}
    return sources if len(sources) > 1 else next(iter(sources))


def planned(options: argparse.Namespace) -> Iterator[Cell]:
    """All cells, the weightiest first."""
    models = [model for model in MODELS if options.only in (None, model.name)]
    yield from (Cell(model, "dense", "", 0, 0, 0) for model in models)
    sizes, windows = options.size or SIZES, options.windows or WINDOWS
    for seed, count, size in product(SEEDS[: options.draws], windows, sizes):
        for text, method in product(options.text or TEXTS, options.method or METHODS):
            if options.text or options.method or text in FULL or method == "grail-plus":
                yield from (Cell(m, method, text, size, count, seed) for m in models if text in m.texts)


@cache
def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--only", metavar="MODEL", choices=[model.name for model in MODELS])
    found.add_argument("--method", nargs="+", choices=list(METHODS), metavar="NAME")
    found.add_argument("--text", nargs="+", choices=list(TEXTS), metavar="NAME")
    found.add_argument("--size", nargs="+", type=int, metavar="PERCENT")
    found.add_argument("--windows", nargs="+", type=int, metavar="N")
    found.add_argument("--draws", type=int, default=len(SEEDS), metavar="N")
    return found


def main() -> None:
    """Measure what is missing, and print the tables."""
    options = parser().parse_args()
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    for cell in planned(options):
        result = f"corpora-{cell.model.name}"
        rows = read_results(result).get("rows", [])
        if any(all(row[key] == value for key, value in cell.key.items()) for row in rows):
            continue
        if cell.model.folder is None:
            print(f"{cell.model.name} is absent, passed over", file=sys.stderr)
            continue
        print(f"{cell.model.name}: {cell.key}", file=sys.stderr, flush=True)
        try:
            row = measured(cell)
        except DataError as error:  # a text that this model cannot write, such as one with a chat template
            print(f"passed over: {error}", file=sys.stderr)
            continue
        write_results(result, {"rows": [*read_results(result).get("rows", []), row]})
    for model in MODELS:
        print("\n".join(section(model.name)))


if __name__ == "__main__":
    main()
