"""The commands of the README, and of guides, on a real model: each step with its outcome and seconds.

Runs every ``bash`` line and every ``python`` block of the pages in one folder, each in a process of its own, one after
the other, on SmolLM2-135M-Instruct from the folder that ``OPTIMUM_GRAIL_MODELS`` names. Steps that are done are kept in
that folder and not run again, so that a run that was stopped goes on; a changed command is a new step. The result goes
to ``benchmarks/results/journeys.json``.

    python benchmarks/journeys.py [PAGE ...] [--folder build/journeys] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import EMBEDDED, REPOSITORY, data_folder, environment, models_folder, write_results

RESULT, STATE = "journeys", "journeys.json"
MODEL, OWNER = "SmolLM2-135M-Instruct", "HuggingFaceTB"
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEST_CHARACTERS = 200_000
QUICK = {
    "compress": ["--num-samples", "16", "--seqlen", "64"],
    "evaluate": ["--seqlen", "64"],
    "benchmark": ["--prompt-tokens", "16", "--new-tokens", "4", "--repeats", "2"],
}
"""What ``--quick`` adds to commands: a trial of the pages, whose times say nothing."""


@dataclass(frozen=True)
class Step:
    """One command line or block of Python: the page it stands on, its language and itself."""

    page: str
    language: str
    code: str

    def command(self, quick: bool) -> list[str]:
        """What to start; comments of a shell line are left out by the shell."""
        if self.language == "python":
            return [sys.executable, "-c", self.code]
        program, _, comment = self.code.partition(" #")
        name = next((word for word in QUICK if f"grail {word} " in program), "")
        more = QUICK[name] if quick and name else []
        return ["bash", "-c", " ".join([program, *more]) + (f" #{comment}" if comment else "")]


def steps(page: str) -> Iterator[Step]:
    """The steps of a page, in order."""
    for language, code in BLOCK.findall((REPOSITORY / page).read_text(encoding="utf-8")):
        for part in code.strip().splitlines() if language == "bash" else [code]:
            yield Step(page, language, part)


def furnish(folder: Path) -> None:
    """Put what the pages name into the folder: the model under its name on the Hub, a text, the embedded model."""
    model = models_folder() / MODEL
    if not (model / "config.json").is_file():
        raise SystemExit(f"{model} is not there. Name the folder that holds {MODEL} with OPTIMUM_GRAIL_MODELS.")
    for name, target in ((f"{OWNER}/{MODEL}", model), (f"examples/{EMBEDDED.name}", EMBEDDED)):
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(target.resolve())
    if not (folder / "test.txt").is_file():
        from datasets import load_dataset

        books = load_dataset("parquet", data_files=str(data_folder() / "classic-books" / "test.parquet"), split="train")
        (folder / "test.txt").write_text("\n\n".join(books["text"])[:TEST_CHARACTERS], encoding="utf-8")


def run(step: Step, folder: Path, quick: bool) -> dict[str, Any]:
    """Run a step and say how it ended."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    start = time.perf_counter()
    done = subprocess.run(
        step.command(quick),
        cwd=folder,
        env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    seconds = time.perf_counter() - start
    last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-3:]
    found = {"page": step.page, "language": step.language, "code": step.code, "quick": quick}
    return {**found, "outcome": "done" if done.returncode == 0 else f"exit {done.returncode}", "seconds": seconds} | (
        {} if done.returncode == 0 else {"said": last}
    )


def journey(pages: Sequence[str], folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Run what is not done yet; ends at the first step that fails, since those after it need it."""
    folder.mkdir(parents=True, exist_ok=True)
    furnish(folder)
    state = folder / STATE
    known = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else []
    kept = {(row["page"], row["code"], row["quick"]): row for row in known if row["outcome"] == "done"}
    rows: list[dict[str, Any]] = []
    for step in (step for page in pages for step in steps(page)):
        row = kept.get((step.page, step.code, quick))
        if row is None:
            print(f"{step.page}: {step.code.splitlines()[0]}", flush=True)
            row = run(step, folder, quick)
            print(f"    {row['outcome']}, {row['seconds']:.1f} s", *row.get("said", ()), sep="\n    ", flush=True)
            kept = {
                key: value for key, value in kept.items() if key[0] != step.page
            }  # what follows has to be made anew
        rows.append(row)
        state.write_text(json.dumps([*rows, *(r for r in kept.values() if r not in rows)], indent=1), encoding="utf-8")
        if row["outcome"] != "done":
            break
    return rows


def main() -> int:
    """Run the pages, write the result, and fail where a step did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", default=["README.md"], metavar="PAGE")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "journeys")
    parser.add_argument("--quick", action="store_true", help="few samples; the result is not kept")
    options = parser.parse_args()
    rows = journey(options.pages, options.folder, options.quick)
    if not options.quick:
        write_results(RESULT, {"model": MODEL, "rows": rows, **environment()})
    return 0 if all(row["outcome"] == "done" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
