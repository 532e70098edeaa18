"""Runs that are killed at random moments and resumed until they end: whether their files are those of a run that nobody
disturbed, and what the state costs that makes it so.

Every run is ``optimum-cli grail compress`` on llama-books-3m in a process of its own, ended by SIGKILL at a moment
drawn uniformly from the time its work takes; the resumed run may meet the same fate. The cost is that of the same
compression in one process with a state and without, by turns. Rows go to ``benchmarks/results/unkillable.json`` as soon
as they are there; those that are there already are not made again unless ``--redo`` asks for it.

    python benchmarks/unkillable.py [--runs 25] [--pairs 3] [--busy] [--redo]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import EMBEDDED, environment, read_results, write_results
from optimum.commands.optimum_cli import main as main_of_cli

from optimum_grail import GrailCompressor

RESULT = "unkillable"
SEED = 0
SMALL = ("--num-samples", "24", "--seqlen", "64", "--sparsity", "0.3")
WHOLE: dict[str, Any] = {"num_samples": 64, "seqlen": 128, "sparsity": 0.3}
AGAIN = 0.5
"""How likely a resumed run is killed, too."""
TIMED = ("README.md", "grail_report.json")
"""Files that tell times."""
MOST = 0.05
"""Of the wall time, what a state may cost."""


@dataclass(frozen=True)
class Attempt:
    """One process.

    Args:
        code: its exit code; negative for a signal.
        seconds: from its first word to its end.
        said: the last line that it wrote.
    """

    code: int
    seconds: float
    said: str


def attempt(folder: Path, resume: bool, kill_after: float | None = None) -> Attempt:
    """Run the command in a child of this process, which has loaded the libraries; ``kill_after`` so many seconds after
    the child's first word, by SIGKILL."""
    log = folder / "log"
    log.write_bytes(b"")
    child = os.fork()
    if child == 0:
        _become_command(folder, [*SMALL, *(["--resume"] if resume else [])])
    began, code = 0.0, None
    while code is None:
        time.sleep(0.005)
        if not began and log.stat().st_size:
            began = time.perf_counter()
        if began and kill_after is not None and time.perf_counter() - began > kill_after:
            os.kill(child, signal.SIGKILL)
        done, status = os.waitpid(child, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if done else None
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return Attempt(code, time.perf_counter() - began, lines[-1] if lines else "")


def _become_command(folder: Path, words: list[str]) -> None:
    """``optimum-cli grail compress`` with its output in the log; never returns."""
    descriptor = os.open(folder / "log", os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["optimum-cli", "grail", "compress", "-m", str(EMBEDDED), "-o", str(folder / "out"), *words]
    code = 0
    try:
        main_of_cli()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file of an output that tells no times."""
    found = sorted(path for path in folder.iterdir() if path.name not in TIMED)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def reference() -> dict[str, Any]:
    """A run that nobody disturbs."""
    with tempfile.TemporaryDirectory() as place:
        done = attempt(Path(place), resume=False)
        if done.code:
            raise SystemExit(f"The undisturbed run failed: {done.said}")
        return {"seconds": done.seconds, "files": hashes(Path(place) / "out"), "bytes": _bytes(Path(place) / "out")}


def disturbed(number: int, whole: dict[str, Any]) -> dict[str, Any]:
    """One run, killed and resumed until it ends."""
    draw, kills = random.Random(f"{SEED}/{number}"), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        while True:
            fated = not kills or draw.random() < AGAIN
            moment = draw.uniform(0, whole["seconds"]) if fated else None
            done = attempt(folder, resume=bool(kills), kill_after=moment)
            ended = (folder / "out").exists() and not (folder / ".grail-out.state").exists()
            if done.code == 0 or ended:  # or killed after its work was done
                break
            if done.code != -9:
                raise SystemExit(f"Run {number} failed instead of being killed: {done.said}")
            state = folder / ".grail-out.state"
            said = done.said.replace(f"{place}/", "")
            kills.append({"after": done.seconds, "said": said, "state_bytes": _bytes(state)})
        left = sorted(path.name for path in folder.iterdir() if path.name not in ("out", "log"))
        return {"run": number, "kills": kills, "equal": hashes(folder / "out") == whole["files"], "left": left}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def pair(first: bool) -> dict[str, float]:
    """Seconds of one compression with a state and of one without, in the same process; ``first``: the one with."""
    found = {}
    for kept in (first, not first):
        with tempfile.TemporaryDirectory() as place:
            compressor = GrailCompressor.from_pretrained(EMBEDDED, WHOLE)
            start = time.perf_counter()
            if kept:
                compressor.compress(save_directory=Path(place) / "out")
            else:
                compressor.compress()
                compressor.save_pretrained(Path(place) / "out")
            found["with" if kept else "without"] = time.perf_counter() - start
    return found


def main() -> None:
    """Make the rows that are missing, and say what they show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--busy", action="store_true", help="other programs run meanwhile: the times are marked")
    parser.add_argument("--redo", action="store_true")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    found = {} if args.redo else read_results(RESULT)
    found |= {"model": EMBEDDED.name, "command": " ".join(SMALL), "seed": SEED, **environment()}
    if "reference" not in found:
        found["reference"] = reference()
    rows = found.setdefault("runs", [])
    for number in range(len(rows), args.runs):
        rows.append(disturbed(number, found["reference"]))
        write_results(RESULT, found)
        print(json.dumps({key: value for key, value in rows[-1].items() if key != "kills"}), len(rows[-1]["kills"]))
    cost = found.setdefault("cost", {"config": WHOLE, "busy": args.busy, "pairs": []})
    if len(cost["pairs"]) < args.pairs:
        pair(True)  # a first run does not count
    while len(cost["pairs"]) < args.pairs:
        cost["pairs"].append(pair(len(cost["pairs"]) % 2 == 0))
        write_results(RESULT, found)
    cost["ratio"] = statistics.median(item["with"] / item["without"] for item in cost["pairs"])
    write_results(RESULT, found)
    equal, kills = sum(row["equal"] for row in rows), sum(len(row["kills"]) for row in rows)
    print(
        f"{equal} of {len(rows)} runs equal after {kills} kills; a state costs {cost['ratio'] - 1:.1%} of the wall time"
    )
    if equal < len(rows) or any(row["left"] for row in rows) or (cost["ratio"] > 1 + MOST and not cost["busy"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
