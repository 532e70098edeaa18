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
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin while waiting cost most

import transformers
from _common import environment, read_results, write_results
from _large import SEED, Shape, work, write_model
from rich.console import Console
from rich.table import Table

GOALS = {"peak_gib": 4.0, "growth": 0.03, "seconds_growth": 0.10, "elimination_share_of_product": 0.40}
PERIOD = 0.1
"""Seconds between two looks at the memory."""
POINTS = 200
"""Of a curve, as it is kept."""


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
    return (
        f"{preset}, hidden {shape.hidden}, FFN {shape.ffn}, {shape.layers} layers, "
        f"{shape.samples} x {shape.tokens} tokens"
    )


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
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--again", action="store_true", help="measure rows that are there already, too")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    sizes = {name: getattr(options, name) for name in ("hidden", "ffn", "heads", "vocabulary", "samples", "tokens")}
    if options.work is not None:
        work(options.work, options.presets[0], Shape(**sizes, layers=options.layers[0]))
        return
    rows = {row["name"]: row for row in read_results("large").get("rows", [])}
    for preset in options.presets:
        for layers in options.layers:
            shape = Shape(**sizes, layers=layers)
            if options.again or _name(shape, preset) not in rows:
                row = measure(shape, preset)
                rows[row["name"]] = row
                write_results("large", {"goals": GOALS, "rows": list(rows.values())})
    Console(width=160).print(table(list(rows.values())))


if __name__ == "__main__":
    main()
