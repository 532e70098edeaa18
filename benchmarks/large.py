"""Models larger than memory: what compressing one with ``--low-memory`` takes, by the number of its layers.

A LLaMA with random weights (the shape of a 7B model by default) is written to a temporary folder and compressed in a
process of its own, whose resident memory is sampled. Memory should not grow with the layers, nor the seconds that each
of them takes. Rows that are there already are not measured again.

    python benchmarks/large.py [--layers 2 4 8] [--presets wanda+grail grail-plus]
    python benchmarks/large.py --hidden 1024 --ffn 2816 --heads 16
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin while waiting cost most

import torch
import transformers
from _common import environment, read_results, write_results
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

SEED = 42
SPARSITY = 0.5
SAMPLES, TOKENS = 16, 512
GOALS = {"peak_gib": 4.0, "growth": 0.03, "seconds_growth": 0.10, "elimination_share_of_product": 0.40}
PERIOD = 0.1
"""Seconds between two looks at the memory."""
POINTS = 200
"""Of a curve, as it is kept."""


@dataclass(frozen=True)
class Shape:
    """A LLaMA's sizes."""

    hidden: int
    ffn: int
    heads: int
    vocabulary: int
    layers: int

    def config(self) -> transformers.LlamaConfig:
        """As transformers has it."""
        return transformers.LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.ffn,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            vocab_size=self.vocabulary,
            max_position_embeddings=TOKENS,
            architectures=["LlamaForCausalLM"],
            dtype="bfloat16",
        )

    @property
    def block_bytes(self) -> int:
        """Of one block in float32."""
        return 4 * (4 * self.hidden**2 + 3 * self.hidden * self.ffn)


def write_model(shape: Shape, folder: Path) -> None:
    """Write a checkpoint with random weights, one shard per layer: never more than that in memory."""
    config = shape.config()
    config.save_pretrained(folder)
    with torch.device("meta"):
        names = {name: tensor.shape for name, tensor in transformers.LlamaForCausalLM(config).state_dict().items()}
    homes = {name: ".".join(name.split(".")[:3]) if ".layers." in name else name for name in names}
    index: dict[str, str] = {}
    draw = torch.Generator().manual_seed(SEED)
    for number, home in enumerate(dict.fromkeys(homes.values())):
        file = f"model-{number:05}.safetensors"
        held = {name: _values(size, draw) for name, size in names.items() if homes[name] == home}
        save_file(held, folder / file, {"format": "pt"})
        index |= dict.fromkeys(held, file)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _values(size: torch.Size, draw: torch.Generator) -> Tensor:
    if len(size) == 1:
        return torch.ones(size, dtype=torch.bfloat16)
    return torch.empty(size, dtype=torch.bfloat16).normal_(0, 0.02, generator=draw)


@dataclass
class Eliminations:
    """What the eliminations of the widest groups took.

    Args:
        width: features that count as widest.
        seconds: of all of them.
        operations: the same.
    """

    width: int
    seconds: float = 0.0
    operations: float = 0.0

    def watched(self, eliminate: Callable[..., Any]) -> Callable[..., Any]:
        """The function ``eliminate``, timed."""

        def timed(weight: Tensor, gram: Tensor, units: int, remove: int, damping: float) -> Any:
            start = time.perf_counter()
            found = eliminate(weight, gram, units, remove, damping)
            if weight.shape[1] == self.width:
                self.seconds += time.perf_counter() - start
                self.operations += operations(weight.shape[0], self.width, remove)
            return found

        return timed


def operations(outputs: int, features: int, remove: int) -> float:
    """Floating point operations of an elimination of single features: a Cholesky factor, an inverse, and for every
    removal a rank-one update of the inverse and of the weight and a product of a column with the weight."""
    left = range(features, features - remove, -1)
    updates = sum(2.0 * n * n + 4.0 * outputs * n for n in left)
    return features**3 + 2.0 * outputs * features**2 + updates


def product_rate(size: int) -> float:
    """Float64 operations per second of a matrix product of ``size``."""
    matrix = torch.ones(size, size, dtype=torch.float64)
    best = 0.0
    for _ in range(2):
        start = time.perf_counter()
        matrix @ matrix
        best = max(best, 2.0 * size**3 / (time.perf_counter() - start))
    return best


@dataclass
class Clock:
    """Progress that notes when each group was done.

    Args:
        stages: what is under way, with the seconds at which its groups were done.
    """

    stages: list[tuple[str, list[float]]] = field(default_factory=list)

    def start(self, total: int, description: str = "") -> None:
        """A stage begins."""
        self.stages.append((description, [time.perf_counter()]))

    def update(self, advance: int, description: str) -> None:
        """A group is done."""
        self.stages[-1][1].append(time.perf_counter())

    def finish(self) -> None:
        """A stage has ended."""

    def message(self, text: str) -> None:
        """Tell the log."""
        sys.stderr.write(f"{text}\n")


def work(folder: Path, preset: str, shape: Shape) -> None:
    """In a process of its own: compress the model in ``folder`` and print what it took."""
    import optimum_grail.selectors.obs as obs
    import optimum_grail.signals._curves as curves
    from optimum_grail.compressor import GrailCompressor

    seen = Eliminations(shape.ffn)
    obs.eliminate = curves.eliminate = seen.watched(obs.eliminate)
    draw = torch.Generator().manual_seed(SEED)
    ids = [{"input_ids": torch.randint(shape.vocabulary, (TOKENS,), generator=draw)} for _ in range(SAMPLES)]
    config = {"preset": preset, "sparsity": SPARSITY, "low_memory": True, "batch_size": 1, "seed": SEED}
    clock, start = Clock(), time.perf_counter()
    compressor = GrailCompressor.from_pretrained(folder, config)
    compressor.compress(ids, folder / "out", progress=clock)
    wall = time.perf_counter() - start
    found = {
        "wall_seconds": wall,
        "stage_seconds": dict(compressor.report.seconds),
        "stages": [(name, times[-1] - times[0], len(times) - 1) for name, times in clock.stages],
        "config": compressor.report.config,
        "parameters": [compressor.report.parameters_before, compressor.report.parameters_after],
        "elimination": {**asdict(seen), "share_of_wall": seen.seconds / wall},
    }
    if seen.seconds:
        del compressor
        rate = product_rate(min(shape.ffn, 4096))
        found["elimination"] |= {
            "gflops": seen.operations / seen.seconds / 1e9,
            "product_gflops": rate / 1e9,
            "share_of_product": seen.operations / seen.seconds / rate,
        }
    sys.stdout.write(json.dumps(found))


def measure(shape: Shape, preset: str) -> dict[str, Any]:
    """Write a model, compress it in a process of its own, and watch that process's memory."""
    with tempfile.TemporaryDirectory(prefix="grail-large-") as place:
        folder = Path(place)
        write_model(shape, folder)
        task = [sys.executable, __file__, "--work", str(folder), "--presets", preset, *_spelled(shape)]
        with (folder / "stdout").open("wb") as out, subprocess.Popen(task, stdout=out) as process:
            curve = _watched(process)
        if process.returncode:
            raise SystemExit(f"{preset}, {shape}: the run failed.")
        found = json.loads((folder / "stdout").read_text(encoding="utf-8"))
    peak = max((point["peak"] for point in curve), default=0)
    layers = shape.layers
    return {
        "name": _name(shape, preset),
        "preset": preset,
        **asdict(shape),
        "samples": SAMPLES,
        "tokens": TOKENS,
        "seed": SEED,
        "peak_bytes": peak,
        "peak_anonymous_bytes": max((point["anonymous"] for point in curve), default=0),
        "idle_bytes": next((point["rss"] for point in curve if point["seconds"] > 0.5), 0),
        "block_bytes": shape.block_bytes,
        "model_bytes": layers * shape.block_bytes + 8 * shape.hidden * shape.vocabulary,
        "seconds_per_layer": found["wall_seconds"] / layers,
        "curve": _thinned(curve),
        **found,
        **environment(),
    }


def _watched(process: subprocess.Popen[bytes]) -> list[dict[str, float]]:
    """Resident memory of a process until it ends: now, at its highest so far, and what no file backs."""
    start, curve = time.perf_counter(), []
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
        except OSError:
            break
        fields = (line.split() for line in lines if line.startswith(("VmRSS", "VmHWM", "RssAnon")))
        sizes = {name: int(size) * 1024 for name, size, _ in fields}
        if sizes:
            seconds = time.perf_counter() - start
            point = {"rss": sizes["VmRSS:"], "peak": sizes["VmHWM:"], "anonymous": sizes["RssAnon:"]}
            curve.append({"seconds": seconds, **point})
        time.sleep(PERIOD)
    process.wait()
    return curve


def _thinned(curve: Sequence[dict[str, float]]) -> list[list[float]]:
    """Seconds and MiB, the highest of every stretch, so that no peak is lost."""
    size = max(1, -(-len(curve) // POINTS))
    stretches = (curve[start : start + size] for start in range(0, len(curve), size))
    highest = (max(stretch, key=lambda point: point["rss"]) for stretch in stretches)
    return [[round(point["seconds"], 1), round(point["rss"] / 2**20)] for point in highest]


def _spelled(shape: Shape) -> list[str]:
    return [word for name, value in asdict(shape).items() for word in (f"--{name}", str(value))]


def _name(shape: Shape, preset: str) -> str:
    return f"{preset}, hidden {shape.hidden}, FFN {shape.ffn}, {shape.layers} layers"


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for people."""
    shown = Table(title="Low memory", box=None, title_justify="left")
    for heading in ("", "model", "peak", "no file", "s / layer", "elimination", "of wall", "GFLOP/s", "of product"):
        shown.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in rows:
        seen = row["elimination"]
        rates = (f"{seen['gflops']:.1f}", f"{seen['share_of_product']:.0%}") if "gflops" in seen else ("-", "-")
        shown.add_row(
            row["name"],
            *(f"{row[name] / 2**30:.2f}" for name in ("model_bytes", "peak_bytes", "peak_anonymous_bytes")),
            f"{row['seconds_per_layer']:.1f}",
            f"{seen['seconds']:.0f}",
            f"{seen['share_of_wall']:.0%}",
            *rates,
        )
    shown.caption = (
        "model: float32 weights, GiB; peak: of the process, GiB; no file: the part of it that no file backs; "
        "elimination: seconds at the width of the FFN, and its rate against a float64 matrix product; goals: peak at "
        "most 4 GiB and within 3% for 4 and 8 layers, seconds per layer within 10%, 40% of the product's rate"
    )
    return shown


def main() -> None:
    """Measure what is not there yet and print everything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--presets", nargs="+", default=["wanda+grail", "grail-plus"])
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--ffn", type=int, default=11008)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--again", action="store_true", help="measure rows that are there already, too")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    sizes = (options.hidden, options.ffn, options.heads, options.vocabulary)
    if options.work is not None:
        work(options.work, options.presets[0], Shape(*sizes, options.layers[0]))
        return
    rows = {row["name"]: row for row in read_results("large").get("rows", [])}
    for preset in options.presets:
        for layers in options.layers:
            shape = Shape(*sizes, layers)
            if options.again or _name(shape, preset) not in rows:
                row = measure(shape, preset)
                rows[row["name"]] = row
                write_results("large", {"goals": GOALS, "rows": list(rows.values())})
    Console(width=160).print(table(list(rows.values())))


if __name__ == "__main__":
    main()
