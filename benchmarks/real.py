"""Models that people know: dense, compressed by several methods, by a peer's real code, and with fewer bits.

One row is one model, size, method and number of bits; it is written to ``benchmarks/results/real-MODEL.json`` as soon
as it is there, and one that is there is not measured again. Every row runs in a process of its own, so that its peak of
memory is its own. Models that are absent are passed over; a method that refuses a model leaves a row that says why.
Rows come in the order of their weight: a run that is cut off has the most useful ones. Qualities do not depend on the
machine; seconds are comparable only inside one run on an idle machine, so every row notes the load average.

The models come from ``OPTIMUM_GRAIL_MODELS`` (``docs/real.md`` says how to make them), Torch-Pruning from an
environment of its own: ``benchmarks/torch-pruning.txt``. ``python benchmarks/real_tables.py`` makes the page.

    python benchmarks/real.py [--only MODEL ...] [--size 30 ...] [--method NAME ...] [--bits 0 8 4]
                              [--what quality|zero-shot] [--windows N] [--peers FOLDER] [--minutes BUDGET] [--again]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _common import read_results, write_results
from _real_models import BITS, BY_NAME, EVERY, MODELS, Cell, cells_of

KEYS = tuple(Cell.__dataclass_fields__)
ROW = Path(__file__).with_name("_real_row.py")


def planned(options: argparse.Namespace) -> Iterator[Cell]:
    """All cells that are asked for, the weightiest first."""
    found: list[tuple[int, Cell]] = []
    for model in MODELS:
        asked = not options.only or model.name in options.only
        absent = asked and model.folder() is None
        if absent:
            print(f"{model.name} is absent, passed over", file=sys.stderr)
        if asked and not absent and (model.causal or options.what == "quality"):
            samples = options.windows if options.windows and model.causal else model.samples
            found += cells_of(model, samples, options.what)
    for _, cell in sorted(found, key=lambda item: item[0]):
        sized = not options.size or cell.size in options.size or cell.method == "dense"
        if sized and cell.method in (options.method or EVERY) and cell.bits in (options.bits or BITS):
            yield cell


def known(cell: Cell, again: bool) -> bool:
    """Whether the row is there; ``again``: those that were refused are not."""
    rows = read_results(f"real-{cell.model}").get("rows", [])
    return any(all(row[key] == getattr(cell, key) for key in KEYS) and not (again and "refused" in row) for row in rows)


def keep(cell: Cell, row: dict[str, Any]) -> None:
    """Add the row to the file, in place of one of the same cell."""
    rows = read_results(f"real-{cell.model}").get("rows", [])
    others = [other for other in rows if any(other[key] != row[key] for key in KEYS)]
    write_results(f"real-{cell.model}", {"rows": [*others, row]})


def measured(cell: Cell, peers: str | None) -> dict[str, Any] | None:
    """The row, from a process of its own; ``None`` where that failed, which it has said on stderr."""
    with tempfile.TemporaryDirectory() as scratch:
        asked, told = Path(scratch) / "cell.json", Path(scratch) / "row.json"
        asked.write_text(json.dumps(vars(cell)), encoding="utf-8")
        command = [sys.executable, str(ROW), str(asked), str(told), *([peers] if peers else [])]
        done = subprocess.run(command, check=False)
        return json.loads(told.read_text(encoding="utf-8")) if done.returncode == 0 and told.is_file() else None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--only", nargs="+", metavar="MODEL", choices=list(BY_NAME))
    found.add_argument("--size", nargs="+", type=int, metavar="PERCENT")
    found.add_argument("--method", nargs="+", choices=list(EVERY), metavar="NAME")
    found.add_argument("--bits", nargs="+", type=int, choices=BITS)
    found.add_argument("--what", default="quality", choices=("quality", "zero-shot"))
    found.add_argument("--windows", type=int, metavar="N", help="calibration windows of language models")
    found.add_argument("--peers", metavar="FOLDER", help="environment of Torch-Pruning (build/peers/torch-pruning)")
    found.add_argument("--minutes", type=float, metavar="BUDGET", help="begin no row after so many minutes")
    found.add_argument("--again", action="store_true", help="try rows again that were refused")
    return found


def main() -> None:
    """Measure what is missing."""
    options = parser().parse_args()
    end = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    for cell in planned(options):
        if known(cell, options.again):
            continue
        if time.monotonic() > end:
            print("The minutes are over.", file=sys.stderr)
            break
        start = time.monotonic()
        print(f"{cell.model}: {cell.method}, {cell.size} %, {cell.bits} bits", file=sys.stderr, flush=True)
        row = measured(cell, options.peers)
        if row is not None:
            keep(cell, row)
            told = row.get("refused") or row.get("scores") or row.get("tasks")
            print(f"  {told}, {time.monotonic() - start:.0f} s in all", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
