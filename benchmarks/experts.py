"""A small mixture with fewer experts, narrower ones, or both: what that costs, and what refitting takes off.

python benchmarks/experts.py

The model is ``examples/mixtral-books-5m`` (``train_mixture.py`` made it), calibrated on ``classic-books/valid``,
measured on ``classic-books/test`` (in corpus) and ``wikitext-2/test`` (out of corpus). Damage is the logarithm of the
perplexity over the dense model's. Writes ``benchmarks/results/experts.json`` after every row; rows that are there are
not run again.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

from _common import REPOSITORY, data_folder, environment, read_results, write_results

from optimum_grail import GrailCompressor
from optimum_grail.evaluation.evaluate import make_metric
from optimum_grail.fit import experts

MODEL = REPOSITORY / "examples" / "mixtral-books-5m"
SETS = {"books": "classic-books/test.parquet", "wikitext-2": "wikitext-2/test.parquet"}
CALIBRATION = "classic-books/valid.parquet"
SEQLEN, SAMPLES, TOKENS = 256, 128, 81920
KEPT = (6, 4)
NARROWED = {(None, 144): 6, (None, 96): 4, (7, 160): 6, (6, 128): 4}
"""Experts (``None``: all eight) and channels inside each of 192 that take as many parameters as so many whole experts,
in multiples of 8: 7 of 160 have 3 % fewer."""
CHANNELS = 192
CHOICES = ("reap", "frequency", "random")
REFITS = ("none", "grail-plus", "one by one")
"""The last is grail-plus too, with as little memory as for layers whose experts do not fit together."""
SEEDS = (0, 1, 2)
"""Of ``random``, which needs several."""


def planned() -> Iterator[dict[str, Any]]:
    """The configurations, each a row."""
    for selector, kept, refit in itertools.product(CHOICES, KEPT, REFITS):
        for seed in SEEDS if selector == "random" else SEEDS[:1]:
            if refit != "one by one" or selector == "reap":
                yield {"experts": kept, "expert_selector": selector, "refit": refit, "seed": seed}
    for (left, width), refit in itertools.product(NARROWED, REFITS):
        sparsity = 1 - width / CHANNELS
        yield {"experts": left, "expert_ffn_sparsity": sparsity, "expert_selector": "reap", "refit": refit, "seed": 0}


def perplexities(model: Any, tokenizer: Any) -> dict[str, float]:
    """By set."""
    found = {}
    for name, path in SETS.items():
        metric = make_metric("perplexity", {"seqlen": SEQLEN, "max_tokens": TOKENS})
        found[name] = float(metric(model, tokenizer, None, metric.read(str(data_folder() / path)))[metric.headline])
    return found


def compressed(asked: Mapping[str, Any], samples: int) -> dict[str, Any]:
    """One row."""
    apart = asked["refit"] == "one by one"
    config = {key: value for key, value in asked.items() if key != "refit"}
    config |= {"num_samples": samples, "seqlen": SEQLEN, "dataset": str(data_folder() / CALIBRATION)}
    config |= {"compensator": "grail-plus" if apart else asked["refit"]}
    experts.TOGETHER = 0 if apart else 1 << 20
    compressor = GrailCompressor.from_pretrained(MODEL, config, dtype="float32")
    start = time.perf_counter()
    compressor.compress()
    seconds = time.perf_counter() - start
    rows = [row for row in compressor.report.groups if row.units_after < row.units_before]
    return {
        **asked,
        "samples": samples,
        "perplexity": perplexities(compressor.model, compressor.tokenizer),
        "parameters": compressor.report.parameters_after,
        "plain_held_error": [row.plain_held_error for row in rows],
        "held_error": [row.held_error for row in rows],
        "seconds": seconds,
    }


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--samples", type=int, default=SAMPLES, help="calibration windows of 256 tokens")
    options = parser.parse_args()
    results = read_results("experts")
    rows = results.setdefault("rows", [])
    if "dense" not in results:
        dense: Any = GrailCompressor.from_pretrained(MODEL, dtype="float32")
        results["dense"] = {
            "perplexity": perplexities(dense.model, dense.tokenizer),
            "parameters": sum(parameter.numel() for parameter in dense.model.parameters()),
        }
    for asked in planned():
        key = {"expert_ffn_sparsity": None, **asked, "samples": options.samples}
        if any(all(row.get(name) == value for name, value in key.items()) for row in rows):
            continue
        row = compressed(asked, options.samples)
        before = results["dense"]["perplexity"]
        row["damage"] = {name: math.log(value / before[name]) for name, value in row["perplexity"].items()}
        rows.append(row)
        protocol = {"model": MODEL.name, "calibration": CALIBRATION, "sets": SETS, "seqlen": SEQLEN, "tokens": TOKENS}
        write_results("experts", {**protocol, **results, **environment()})
        print(asked, {name: round(value, 4) for name, value in row["damage"].items()}, flush=True)


if __name__ == "__main__":
    main()
