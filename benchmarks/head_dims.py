"""Attention in finer steps than heads: dimensions inside heads against whole heads and against feed-forward channels.

Every row is one compression, calibrated on one text and measured on two, one of them another corpus. Sizes are
fractions of the parameters inside the blocks: ``ffn`` takes all of it from the feed-forward layers, ``ffn + dims`` a
quarter of the dimensions inside the heads and the rest from the feed-forward layers; ``dims`` alone and whole ``heads``
are fractions of their own kind. Rows go to ``benchmarks/results/head_dims.json`` as soon as they are there; one that is
there is not measured again.

    python benchmarks/head_dims.py [--only MODEL] [--rows N]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin while waiting cost most

import datasets
import transformers
from _common import EMBEDDED, environment, read_results, write_results
from _experiments import Source, shared

from optimum_grail import GrailCompressor
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.evaluation.evaluate import make_metric

BOOKS, WIKITEXT = "classic-books", "wikitext-2"
COMMON: Mapping[str, Any] = {"preset": "grail-plus", "allocation": "uniform", "seed": 42}


@dataclass(frozen=True)
class Model:
    """A model and what it is calibrated on.

    Args:
        name: in the results.
        folder: where it is, or ``None`` where it is absent.
        data: rows of calibration.
        windows: of calibration text.
        seqlen: tokens of a window.
        attention: share of the blocks' parameters that attention has.
        fractions: of the dimensions inside heads.
        sizes: of the blocks' parameters, for ``ffn`` against ``ffn + dims``.
        heads: fractions of the key-value heads, for comparison.
        tokens: of each text that it is measured on.
    """

    name: str
    folder: Path | None
    data: Source
    windows: int
    seqlen: int
    attention: float
    fractions: tuple[float, ...]
    sizes: tuple[float, ...]
    heads: tuple[float, ...]
    tokens: int


MODELS = (
    Model(
        "llama-books-3m",
        EMBEDDED,
        Source(f"{BOOKS}/valid.parquet"),
        64,
        256,
        110_592 / (110_592 + 294_912),
        (0.25, 0.125, 0.5),
        (0.2,),
        (1 / 3, 1 / 2),
        16_384,
    ),
    Model(
        "SmolLM2-135M-Instruct",
        shared("SmolLM2-135M-Instruct"),
        Source(f"{WIKITEXT}/train.parquet"),
        32,
        256,
        884_736 / (884_736 + 2_654_208),
        (0.25,),
        (0.2,),
        (),
        4_096,
    ),
)


@dataclass(frozen=True)
class Cell:
    """One compression.

    Args:
        what: ``dense``, ``dims``, ``heads``, ``ffn`` or ``ffn + dims``.
        size: fraction of that kind, or of the blocks' parameters.
        config: what is asked for.
    """

    what: str
    size: float
    config: Mapping[str, float]


def cells(model: Model) -> Iterator[Cell]:
    """What is measured of a model; the sizes of ``ffn`` and ``ffn + dims`` are equal."""
    yield Cell("dense", 0.0, {})
    yield Cell("dims", model.fractions[0], {"head_dim_sparsity": model.fractions[0]})
    for size in model.sizes:
        yield Cell("ffn", size, {"ffn_sparsity": size / (1 - model.attention)})
        rest = size - model.attention / 4
        mixed = {"head_dim_sparsity": 0.25} | ({"ffn_sparsity": rest / (1 - model.attention)} if rest > 0.01 else {})
        yield Cell("ffn + dims", size, mixed)
    for fraction in model.heads:
        yield Cell("heads", fraction, {"head_sparsity": fraction})
    for fraction in model.fractions[1:]:
        yield Cell("dims", fraction, {"head_dim_sparsity": fraction})


def measured(model: Model, cell: Cell) -> dict[str, Any]:
    """The row of one cell."""
    found: Any = load_model(str(model.folder), dtype="float32", device="cpu", trust_remote_code=False)
    tokenizer, _ = load_processors(str(model.folder), False)
    row: dict[str, Any] = {"model": model.name, "what": cell.what, "size": cell.size, "config": dict(cell.config)}
    if cell.config:
        config = {**COMMON, **cell.config, "num_samples": model.windows, "seqlen": model.seqlen}
        compressor = GrailCompressor(found, config, tokenizer=tokenizer)
        start = time.perf_counter()
        compressor.compress(model.data.read())
        report = compressor.report
        row |= {"seconds": time.perf_counter() - start, "removed": report.achieved, "standalone": report.standalone}
        row |= {"cache_bytes": list(report.cache_bytes), "head_size": list(report.head_size)}
        row["rope_parameters"] = dict(found.config.rope_parameters)
    row |= {
        "dtype": "float32",
        "calibration": model.data.name,
        "windows": model.windows,
        "seqlen": model.seqlen,
        "tokens": model.tokens,
        "seed": COMMON["seed"],
    }
    for text in (BOOKS, WIKITEXT):
        metric = make_metric("perplexity", {"seqlen": model.seqlen, "max_tokens": model.tokens})
        rows = metric.read(Source(f"{text}/test.parquet").read())
        row[text] = metric(found, tokenizer, None, rows)[metric.headline]
    return row


def main() -> None:
    """Read the command line, run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=[model.name for model in MODELS])
    parser.add_argument("--rows", type=int, default=1000, help="Stop after so many new rows.")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    left = options.rows
    for model in MODELS:
        if options.only not in (None, model.name) or model.folder is None:
            continue
        for cell in cells(model):
            results = read_results("head_dims") or {"rows": []}
            known = {(row["model"], row["what"], row["size"]) for row in results["rows"]}
            if (model.name, cell.what, cell.size) in known or not left:
                continue
            row = measured(model, cell) | environment()
            results["rows"].append(row)
            write_results("head_dims", results)
            left -= 1
            print(f"{model.name} {cell.what} {cell.size:.3f}: {row[BOOKS]:.3f} {row[WIKITEXT]:.3f}", file=sys.stderr)


if __name__ == "__main__":
    main()
