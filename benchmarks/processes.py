"""One compression by one process and by two, each with one thread, side by side: how much faster two are.

Both run ``GrailCompressor`` on llama-books-3m by turns, in processes of their own that the environment of a launcher
joins. Two times are told: the wall time of data, survey and fit; and the processor time of the process that took most,
which other work on the machine changes less. Rows go to ``benchmarks/results/processes.json``; what is there already
is not made again unless ``--redo`` asks for it. Run it on an idle machine.

    python benchmarks/processes.py [--samples 64] [--repeats 3] [--beside TEXT] [--redo]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

from _common import EMBEDDED, environment, read_results, write_results

from optimum_grail import GrailCompressor
from optimum_grail.evaluation import stopwatch
from optimum_grail.processes.joining import joined

RESULT, GOAL = "processes", 1.7
STAGES = ("data", "survey", "fit")


def here(samples: int, dataset: str) -> dict[str, Any]:
    """One process's part of a run: seconds of the stages that are shared, and of the processor."""
    stopwatch.LEAST, stopwatch.PATIENCE = 1, 0.0
    with joined() as ranks:
        config = {"sparsity": 0.3, "num_samples": samples, "seqlen": 128, "dataset": dataset}
        compressor = GrailCompressor.from_pretrained(EMBEDDED, config)
        ranks.total("a common start", 1)
        began = time.process_time()
        compressor.compress()
        worked = time.process_time() - began  # the first one's stopwatch of forward passes is cut short, see below
        seconds = {stage: compressor.report.seconds[stage] for stage in STAGES}
        sent = ranks.channel.sent if ranks.channel else 0
    return {"seconds": seconds, "processor": worked, "sent": sent}


def together(count: int, samples: int, dataset: str) -> dict[str, Any]:
    """So many processes, one thread each: what the slowest took."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, __file__, "--here", "--samples", str(samples), "--dataset", dataset]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    started = [
        subprocess.Popen(
            command,
            env={**shared, "MASTER_PORT": port, "RANK": str(index), "LOCAL_RANK": str(index)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    told = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{count} processes: one failed.")
    found = [json.loads(text.splitlines()[-1]) for text in told]
    return {
        "wall": max(sum(each["seconds"].values()) for each in found),
        "processor": max(each["processor"] for each in found),
        "sent": found[0]["sent"],
    }


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """A row: medians over turns."""
    turns = [
        {count: together(count, options.samples, options.dataset) for count in (1, 2)} for _ in range(options.repeats)
    ]
    row: dict[str, Any] = {"model": EMBEDDED.name, "samples": options.samples, "seqlen": 128, "seed": 42}
    row |= {"dataset": options.dataset, "repeats": options.repeats, "beside": options.beside}
    for kind in ("wall", "processor"):
        one, two = (statistics.median(turn[count][kind] for turn in turns) for count in (1, 2))
        row[kind] = {"one": one, "two": two, "times_faster": one / two}
    row["sent"] = turns[0][2]["sent"]
    row["load"] = os.getloadavg()[0]
    return {**row, **environment()}


def main() -> None:
    """Measure what is missing, and say whether the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--dataset", default="general")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--beside", default="", help="what else the machine did, for the row")
    parser.add_argument("--redo", action="store_true", help="measure again what is there")
    parser.add_argument("--here", action="store_true", help="be one of the processes and print what it took")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(here(options.samples, options.dataset)))
        return
    rows = {} if options.redo else {row["name"]: row for row in read_results(RESULT).get("rows", [])}
    name = f"{EMBEDDED.name}, {options.dataset}, {options.samples} samples"
    if name not in rows:
        rows[name] = {"name": name, **measured(options)}
        write_results(RESULT, {"goal": GOAL, "rows": list(rows.values())})
    for row in rows.values():
        wall, worked = row["wall"]["times_faster"], row["processor"]["times_faster"]
        print(f"{row['name']}: two processes are x {wall:.2f} faster (wall), x {worked:.2f} (processor); goal {GOAL}")


if __name__ == "__main__":
    main()
