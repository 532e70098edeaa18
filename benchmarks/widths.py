"""Which widths are fast on this processor: feed-forward widths that are multiples of 1, 8, 16, 32 or 64, and heads.

LLaMA-shaped random models of the reference sizes and of SmolLM2-135M's, with two layers and a small vocabulary, so
that blocks and not the head are timed; by the turns, ``generate`` included, of ``optimum-cli grail benchmark``, but in
one process. Around half and four fifths of the dense width, a model of every multiple between two neighbouring
multiples of 64 is timed; what it takes more than the line between those two is its slowdown. Heads go with the query
heads that share a key-value head; there the speed-up stands beside that of the operations.

Rows go to ``benchmarks/results/widths.json`` as soon as they are there; one that is there already, measured with as
many threads, is not measured again. Run it on an idle machine.

    python benchmarks/widths.py [--only SHAPE] [--dtype float32|bfloat16] [--trial] [--table]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin while waiting cost most

import torch
from _common import environment, read_results, write_results
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from optimum_grail.checkpoints.loading import Loading
from optimum_grail.evaluation.speed.ratios import Ratio
from optimum_grail.evaluation.speed.runner import Runner
from optimum_grail.evaluation.speed.speed_test import Prepared, SpeedTest
from optimum_grail.evaluation.speed.workload import Workload
from optimum_grail.report.progress import RichProgress
from optimum_grail.report.table import percent

RESULT = "widths"
OFFSETS: Mapping[int, int] = {1: 31, 8: 24, 16: 48, 32: 32}
"""What is added to a multiple of 64 to be a multiple of so much and of nothing larger that is a power of two."""
STEP = 64
SHARES = (0.5, 0.8)
"""Of the dense feed-forward width, around which is measured."""
LAYERS, VOCABULARY = 2, 1024
BATCHES, PROMPT, NEW, ROUNDS = (1, 8), 128, 33, 12
DTYPES = ("float32", "bfloat16")
SEED = 42


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaMA.

    Args:
        name: of the model that it is the shape of.
        hidden: size of the residual stream.
        ffn: feed-forward channels.
        heads: query heads.
        shared: key-value heads.
        size: of a head.
    """

    name: str
    hidden: int
    ffn: int
    heads: int
    shared: int
    size: int

    def config(self, ffn: int | None = None, shared: int | None = None) -> LlamaConfig:
        """With a feed-forward width, or so many key-value heads, of one's own."""
        kept = shared or self.shared
        return LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=ffn or self.ffn,
            num_hidden_layers=LAYERS,
            num_attention_heads=kept * self.heads // self.shared,
            num_key_value_heads=kept,
            head_dim=self.size,
            vocab_size=VOCABULARY,
        )


SHAPES = (
    Shape("llama-books-3m", 192, 512, 12, 6, 16),
    Shape("llama-27m", 512, 1408, 8, 4, 64),
    Shape("SmolLM2-135M", 576, 1536, 9, 3, 64),
)
TINY = Shape("tiny", 32, 256, 4, 2, 8)


@dataclass
class Contestant:
    """A random model in this process; asked as :class:`optimum_grail.evaluation.speed.worker.Worker` is."""

    config: LlamaConfig
    dtype: torch.dtype
    runner: Runner = field(init=False)
    model: Any = None

    def __post_init__(self) -> None:
        self.runner = Runner("", cast(Loading, self), workload())  # it loads what stands here: the model

    def load(self, path: str) -> Any:
        """The model, built once."""
        if self.model is None:
            torch.manual_seed(SEED)
            self.model = LlamaForCausalLM(self.config).to(self.dtype).eval()
        return self.model

    def ask(self, method: str, **arguments: int) -> dict[str, Any]:
        """What the runner answers."""
        answer: dict[str, Any] = getattr(self.runner, method)(**arguments)
        return answer


def workload() -> Workload:
    """What every model computes."""
    return Workload("generation", PROMPT, NEW, VOCABULARY, seed=SEED)


def turns(configs: Mapping[str, LlamaConfig], dtype: str, rounds: int) -> dict[str, Any]:
    """The result of a speed test of models with these configurations; the first is what others are held against."""
    test = SpeedTest(list(configs), BATCHES, PROMPT, NEW, rounds, SEED)
    counted = []
    for config in configs.values():
        with torch.device("meta"):
            skeleton = LlamaForCausalLM(config).eval()
        counted.append({(part, size): f for size in BATCHES for part, f in workload().flops(skeleton, size).items()})
    contestants = [Contestant(config, getattr(torch, dtype)) for config in configs.values()]
    prepared = Prepared(test, workload(), BATCHES, tuple(counted), ())
    progress = RichProgress()
    try:
        return prepared.measure(contestants, progress)
    finally:
        progress.finish()


def of_ffn(shape: Shape, share: float, dtype: str, rounds: int) -> dict[str, Any]:
    """Slowdowns of widths between two multiples of 64."""
    low = max(STEP, int(share * shape.ffn) // STEP * STEP)
    widths = {STEP: low, **{multiple: low + offset for multiple, offset in OFFSETS.items()}, 2 * STEP: low + STEP}
    found = turns({str(width): shape.config(ffn=width) for width in widths.values()}, dtype, rounds)
    rows = {(row["part"], row["batch"], row["model"]): row["seconds"] for row in found["rows"]}
    measured = []
    for part, batch in dict.fromkeys((part, batch) for part, batch, _ in rows if part != "load"):
        first, last = (rows[part, batch, str(width)] for width in (low, low + STEP))
        for multiple in OFFSETS:
            weight = (widths[multiple] - low) / STEP
            line = [a + weight * (b - a) for a, b in zip(first, last, strict=True)]
            ratio = Ratio.of(rows[part, batch, str(widths[multiple])], line)
            cells = {"multiple": multiple, "width": widths[multiple], "slowdown": asdict(ratio)}
            measured.append({"part": part, "batch": batch, **cells, "within_noise": ratio.within_noise})
    return {"between": [low, low + STEP], "measured": measured, "seconds": _seconds(found)}


def of_heads(shape: Shape, dtype: str, rounds: int) -> dict[str, Any]:
    """Speed-ups of fewer heads."""
    counts = range(shape.shared, 0, -1)
    found = turns({str(count): shape.config(shared=count) for count in counts}, dtype, rounds)
    names = ("part", "batch", "speedup", "within_noise", "ideal", "realised")
    rows = [row for row in found["rows"] if row["part"] != "load" and row["model"] != str(shape.shared)]
    measured = [{"shared": int(row["model"]), **{name: row[name] for name in names}} for row in rows]
    return {"measured": measured, "seconds": _seconds(found)}


def _seconds(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every time, by part, batch and model."""
    names = ("part", "batch", "model", "seconds", "passes_per_turn")
    return [{name: row[name] for name in names} for row in found["rows"] if row["part"] != "load"]


def cells(shapes: Sequence[Shape], dtypes: Sequence[str]) -> Iterator[tuple[Shape, dict[str, Any]]]:
    """What is to be measured: a shape, and what tells its row from others; ``share`` is ``None`` of heads."""
    for shape in shapes:
        for dtype in dtypes:
            for share in (*SHARES, None):
                key = {"shape": shape.name, "dtype": dtype, "share": share, "threads": torch.get_num_threads()}
                yield shape, key


def measured(shape: Shape, key: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """One row."""
    print(f"{key['shape']}, {key['dtype']}, {'heads' if key['share'] is None else percent(key['share'])}", flush=True)
    if key["share"] is None:
        found = of_heads(shape, key["dtype"], rounds)
    else:
        found = of_ffn(shape, key["share"], key["dtype"], rounds)
    work = {"layers": LAYERS, "vocabulary": VOCABULARY, "prompt": PROMPT, "new_tokens": NEW, "seed": SEED}
    return {**key, **asdict(shape), **work, "rounds": rounds, **found, **environment()}


def shown(rows: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """Tables for people."""
    table = Table(title="Slowdown against multiples of 64 (* within the noise)", box=None, title_justify="left")
    for heading in ("shape", "type", "share", "part", "batch", *map(str, OFFSETS)):
        table.add_column(heading, justify="right" if heading.isdigit() else "left", no_wrap=True)
    for row in (row for row in rows if row["share"] is not None):
        for part, batch in dict.fromkeys((item["part"], item["batch"]) for item in row["measured"]):
            items = [item for item in row["measured"] if (item["part"], item["batch"]) == (part, batch)]
            ratios = [f"{item['slowdown']['median']:.2f}{'*' if item['within_noise'] else ' '}" for item in items]
            table.add_row(row["shape"], row["dtype"], percent(row["share"]), part, str(batch), *ratios)
    yield table
    table = Table(title="Speed-up by fewer heads", box=None, title_justify="left")
    for heading in ("shape", "type", "key-value heads", "part", "batch", "speed-up", "ideal", "realised"):
        table.add_column(heading, no_wrap=True)
    for row in (row for row in rows if row["share"] is None):
        for item in row["measured"]:
            ratio = item["speedup"]
            gained = "within the noise" if item["within_noise"] else percent(item["realised"])
            speed = f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
            name = f"{item['shared']} of {row['shared']}"
            where = row["shape"], row["dtype"], name, item["part"], str(item["batch"])
            table.add_row(*where, speed, f"{item['ideal']:.2f}", gained)
    yield table


def main() -> None:
    """Measure what is missing, and print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="SHAPE", choices=[shape.name for shape in SHAPES])
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--trial", action="store_true", help="a tiny shape and few rounds; nothing is written")
    parser.add_argument("--table", action="store_true", help="print what is there, measure nothing")
    options = parser.parse_args()
    dtypes = [dtype for dtype in DTYPES if options.dtype in (None, dtype)]
    if options.trial:
        rows = [measured(shape, key, 2) for shape, key in cells([TINY], dtypes)]
    else:
        rows = read_results(RESULT).get("rows", [])
        shapes = [shape for shape in SHAPES if options.only in (None, shape.name)]
        for shape, key in [] if options.table else cells(shapes, dtypes):
            if not any(all(row[name] == value for name, value in key.items()) for row in rows):
                rows.append(measured(shape, key, ROUNDS))
                write_results(RESULT, {"rows": rows})
    for table in shown(rows):
        Console().print(table)


if __name__ == "__main__":
    main()
