"""Fewer layers: cutting them out, dropping them with what is left refitted, and merging neighbours into one.

Of a model one to three layers go. *ShortGPT* cuts out those of least block influence and changes nothing else;
*ShortGPT, refitted* drops the same ones and refits every consumer behind them, the last one before a gap to the stream
after it; *dropping* does so with the layers whose absence does least damage on a few samples. *Merging* puts one layer
in the place of two (``_merging.py``), the pairs whose layer of twice the width does least damage, and refits likewise.
Nothing is narrowed besides. Calibrated on the general corpus, measured as ``corpora.py`` does. Rows go to
``benchmarks/results/depth-MODEL.json`` as soon as they are there; one that is there is not measured again.

    python benchmarks/depth.py [--only MODEL] [--gone N ...] [--method NAME ...] [--draws N] [--each]
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin while waiting cost most

import datasets
import torch
import transformers
from _common import environment, read_results, write_results
from _layers import dense_model, general_text
from _merging import MergingRun, merge_
from corpora import BOOKS, MODELS, SMOL, Model, scores

from optimum_grail import GrailConfig
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.data.batches import CalibrationData, few_of
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.models.depth import drop_blocks_
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Silent
from optimum_grail.survey.survey import Survey

WINDOWS: Mapping[str, int] = {BOOKS: 64, SMOL: 32}
DRAWS: Mapping[str, int] = {BOOKS: 3, SMOL: 1}
GONE = (1, 2, 3)
CUT, CUT_REFITTED, DROPPED, MERGED = "ShortGPT", "ShortGPT, refitted", "dropping", "merging"
METHODS = (CUT, CUT_REFITTED, DROPPED, MERGED)
CONFIG: Mapping[str, Any] = {"preset": "grail-plus", "allocation": "uniform"}


@dataclass(frozen=True)
class Cell:
    """One shorter model.

    Args:
        method: of :data:`METHODS`, or ``"dense"``.
        layers: positions in the dense model: those that go, or the first ones of the pairs that are merged.
        seed: of the draw of calibration text.
    """

    method: str
    layers: tuple[int, ...] = ()
    seed: int = 0


def layers_of(found: Any) -> list[str]:
    """Paths of the layers."""
    return [f"model.layers.{index}" for index in range(len(found.model.layers))]


def surveyed(model: Model, data: CalibrationData) -> dict[str, list[float]]:
    """Of every layer its influence and the damage without it; of every pair the damage with one layer of twice the
    width."""
    found = dense_model(model)
    needs = frozenset({"influence", "drops"})
    survey = Survey(found, resolve(found), data.batches, Silent(), needs).run()
    influence, drops = survey.of("influence"), survey.of("drops")
    return {
        "influence": [float(influence[f"{path}.mlp"]) for path in layers_of(found)],
        "drops": [float(drops[path]) for path in layers_of(found)],
        "pairs": list(_pairs(model, data)),
    }


@torch.no_grad()
def _pairs(model: Model, data: CalibrationData) -> Iterator[float]:
    """Divergence from the dense outputs with each pair as one layer of twice the width, nothing refitted."""
    dense = dense_model(model)
    inputs = [dict(data.batches[index].inputs) for index in few_of(data.batches)]
    expected = [dense(**each, use_cache=False).logits.log_softmax(-1) for each in inputs]
    for first in range(len(dense.model.layers) - 1):
        wide = dense_model(model)
        merge_(wide, [first])
        found = [wide(**each, use_cache=False).logits.log_softmax(-1) for each in inputs]
        yield fmean(
            float((one.exp() * (one - other)).sum(-1).mean()) for one, other in zip(expected, found, strict=True)
        )


def chosen(method: str, gone: int, survey: Mapping[str, Sequence[float]]) -> tuple[int, ...]:
    """The layers, or the first ones of disjoint pairs, of least harm."""
    harm = survey[{DROPPED: "drops", MERGED: "pairs"}.get(method, "influence")]
    apart = 2 if method == MERGED else 1
    sets = (
        item
        for item in itertools.combinations(range(len(harm)), gone)
        if all(after - before >= apart for before, after in itertools.pairwise(item))
    )
    return min(sets, key=lambda item: sum(harm[index] for index in item))


def shorter(model: Model, cell: Cell, data: CalibrationData) -> Any:
    """The model of a cell."""
    found = dense_model(model)
    methods, dense = Methods.of(GrailConfig(**CONFIG).resolved()), resolve(found)
    if cell.method == MERGED:
        units = {group.kind: group.units for group in dense.groups}
        pairs = merge_(found, cell.layers)
        layout = resolve(found)
        widths = {group.name: units[group.kind] for group in layout.groups}
        MergingRun(found, layout, methods, widths, data.batches, cell.seed, Silent(), merged=pairs).run_()
        return found
    gone = [layers_of(found)[index] for index in cell.layers]
    if cell.method in (CUT_REFITTED, DROPPED):
        FitRun(found, dense, methods, dense.widths, data.batches, cell.seed, Silent(), gone).run_()
    drop_blocks_(found, dense, gone)
    return found


def measured(model: Model, cell: Cell, data: CalibrationData) -> dict[str, Any]:
    """The row of one cell."""
    tokenizer, _ = load_processors(str(model.folder), False)
    start = time.perf_counter()
    found = dense_model(model) if cell.method == "dense" else shorter(model, cell, data)
    seconds = time.perf_counter() - start
    return {
        "method": cell.method,
        "layers": list(cell.layers),
        "seed": cell.seed,
        "windows": WINDOWS[model.name],
        "seqlen": model.seqlen,
        "parameters": sum(parameter.numel() for parameter in found.parameters()),
        "seconds": seconds,
        "scores": scores(found, tokenizer, model),
        **environment(),
    }


def cells(options: argparse.Namespace, seed: int, survey: Mapping[str, Sequence[float]]) -> Iterator[Cell]:
    """What is measured of a draw."""
    if seed == 0:
        yield Cell("dense")
    for gone, method in itertools.product(options.gone, options.method):
        yield Cell(method, chosen(method, gone, survey), seed)
    if options.each and seed == 0:
        for index in range(len(survey["drops"])):
            yield Cell(DROPPED, (index,))
            if index < len(survey["pairs"]):
                yield Cell(MERGED, (index,))


def run(model: Model, options: argparse.Namespace) -> None:
    """Measure what is missing of a model."""
    name = f"depth-{model.name}"
    for seed in range(min(options.draws, DRAWS[model.name])):
        data = general_text(model, dense_model(model), WINDOWS[model.name], seed)
        results = {"surveys": {}, "rows": [], **read_results(name)}
        if str(seed) not in results["surveys"]:
            results["surveys"][str(seed)] = surveyed(model, data)
            write_results(name, results)
        for cell in cells(options, seed, results["surveys"][str(seed)]):
            known = [(row["method"], tuple(row["layers"]), row["seed"]) for row in results["rows"]]
            if (cell.method, cell.layers, cell.seed) in known:
                continue
            row = measured(model, cell, data)
            results["rows"].append(row)
            write_results(name, results)
            damage = [math.log(value / results["rows"][0]["scores"][key]) for key, value in row["scores"].items()]
            print(model.name, cell, " ".join(f"{each:.3f}" for each in damage), f"{fmean(damage):.3f}", file=sys.stderr)


def main() -> None:
    """Read the command line, measure what is missing."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", choices=list(WINDOWS))
    parser.add_argument("--gone", nargs="+", type=int, default=list(GONE), metavar="N")
    parser.add_argument("--method", nargs="+", default=list(METHODS), choices=METHODS, metavar="NAME")
    parser.add_argument("--draws", type=int, default=max(DRAWS.values()), metavar="N")
    parser.add_argument("--each", action="store_true", help="every layer and every pair by itself, of the first draw")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    for model in MODELS:
        if model.name in WINDOWS and options.only in (None, model.name) and model.folder is not None:
            run(model, options)


if __name__ == "__main__":
    main()
