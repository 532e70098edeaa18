"""How much faster a smaller model runs: dense against compressed, in llama.cpp, ONNX Runtime and PyTorch.

A decoder reads a prompt and writes tokens, an encoder reads; one row at a time and eight; weights in float32 and in 8
bits. 30 and 50 % of the blocks' parameters go, in one width for all layers (uniform) or a width per layer (knapsack).
The checkpoints of one engine, type and number of rows take turns, so that what else the machine does meets all of them.
Every turn's seconds go to ``benchmarks/results/speed.json`` as soon as the last turn is over; what is there is not
measured again unless ``--redo`` asks for it. ``python benchmarks/speed_tables.py`` makes the page.

    python benchmarks/speed.py [--model FOLDER ...] [--only ENGINE ...] [--place FOLDER] [--prompt N] [--new N]
                               [--rows N ...] [--turns N] [--size 30 ...] [--output FILE] [--redo]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, environment, models_folder
from _engines import compressed
from _timed import LlamaCpp, Load, OnnxRuntime, PyTorch, Timed

from optimum_grail.checkpoints.atomic import write_atomically
from optimum_grail.checkpoints.loading import load_config, model_class
from optimum_grail.export.samples import kind_of

MODELS = ("SmolLM2-135M-Instruct", "all-mpnet-base-v2")
ALLOCATIONS = ("uniform", "knapsack")
SAMPLES: Mapping[str, Any] = {"dataset": "general", "num_samples": 64, "seqlen": 128}
"""Few: the time of a pass depends on widths, not on what is fitted."""
Row = dict[str, Any]


def checkpoints(model: Path, sizes: list[int], place: Path) -> Iterator[tuple[str, Path]]:
    """Names and folders: the dense model, then smaller ones."""
    yield "dense", model
    for size, allocation in product(sizes, ALLOCATIONS):
        settings = {"sparsity": size / 100, "allocation": allocation, **SAMPLES}
        yield f"{size} % less, {allocation}", compressed(model, f"{size}-{allocation}", settings, place)


def measured(engine: Timed, kind: str, folders: Mapping[str, Path], load: Load, turns: int, place: Path) -> list[Row]:
    """A row per checkpoint: the seconds of every turn. The first turn is not counted."""
    passes = {name: engine.ready(folder, kind, load, place) for name, folder in folders.items()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in passes}
    for _ in range(turns + 1):
        for name, once in passes.items():
            found[name].append(once())
    return [
        {
            "checkpoint": name,
            "prompt_seconds": [first for first, _ in spent[1:]],
            "new_seconds": [rest for _, rest in spent[1:]] if load.decoder else [],
            **vars(load),
            **environment(),
            "engines": {one: version(one) for one in ("xllamacpp", "onnxruntime", "torchao")},
        }
        for name, spent in found.items()
    ]


def arguments() -> argparse.Namespace:
    """What is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", type=Path, help="folders; by default the two of the page")
    parser.add_argument("--only", nargs="+", metavar="ENGINE", help="engines by their names")
    parser.add_argument("--place", type=Path, metavar="FOLDER", help="where compressed and exported models are kept")
    parser.add_argument("--prompt", type=int, default=128, help="tokens to read")
    parser.add_argument("--new", type=int, default=32, help="tokens to write")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8], help="rows at a time")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--size", nargs="+", type=int, default=[30, 50], help="percent that goes")
    parser.add_argument("--output", type=Path, default=RESULTS / "speed.json", help="where results are")
    parser.add_argument("--redo", action="store_true", help="measure again what is there")
    options = parser.parse_args()
    if options.prompt + options.new >= 256:
        parser.error("--prompt and --new: fewer than 256 tokens together")
    return options


def main() -> None:
    """Measure what is missing."""
    options = arguments()
    engines = [one for one in (LlamaCpp(), OnnxRuntime(), PyTorch()) if not options.only or one.name in options.only]
    there = json.loads(options.output.read_text(encoding="utf-8"))["rows"] if options.output.is_file() else []
    with tempfile.TemporaryDirectory() as aside:
        place = options.place or Path(aside)
        place.mkdir(parents=True, exist_ok=True)
        for model in options.model or [models_folder() / name for name in MODELS]:
            config = load_config(model)
            decoder = kind_of(config, model_class(config), model) == "decoder"
            folders: dict[str, Path] = {}
            for engine, rows in product(engines, options.rows):
                load = Load(decoder, rows, options.prompt, options.new, torch.get_num_threads())
                for kind in engine.types if engine.takes(load) else ():
                    key = {"model": model.name, "engine": engine.name, "type": kind, "rows": rows}
                    old = [row for row in there if key.items() <= row.items()]
                    if old and not options.redo:
                        continue
                    folders = folders or dict(checkpoints(model, options.size, place))
                    new = measured(engine, kind, folders, load, options.turns, place)
                    there = [row for row in there if row not in old] + [{**row, **key} for row in new]
                    text = json.dumps({"rows": there}, indent=1) + "\n"
                    write_atomically(options.output, partial(Path.write_text, data=text, encoding="utf-8"))
                    print(key, "measured", flush=True)


if __name__ == "__main__":
    main()
