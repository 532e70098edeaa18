"""Runs of the embedded LLaMA that were killed, or lost their data, and went on with the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import CheckpointError, DataError
from optimum_grail.report.progress import Silent
from optimum_grail.report.report import REPORT_FILE

TOLD = ("README.md", REPORT_FILE)
"""Files that tell times."""
TIMED = ("seconds", "forward", "peak_memory", "command")


class Stopped(Exception):
    """Ends a run as a kill would."""


class Stop(Silent):
    """Ends a run after so many steps of one phase.

    Args:
        phase: how its description begins.
        after: steps that are done before; the run goes on to its end if there are fewer.
    """

    def __init__(self, phase: str, after: int) -> None:
        self.phase, self.left, self.running, self.lines = phase, after, "", list[str]()

    def start(self, total: int, description: str) -> None:
        self.running = description

    def update(self, advance: int, description: str) -> None:
        if self.running.startswith(self.phase):
            self.left -= 1
            if self.left < 0:
                raise Stopped

    def message(self, text: str) -> None:
        self.lines.append(text)


def files(folder: Path) -> dict[str, Any]:
    """Bytes of the files in ``folder``; of the report everything but times."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in TOLD}
    report = json.loads((folder / REPORT_FILE).read_text())
    return {**found, "report": {key: value for key, value in report.items() if key not in TIMED}}


@pytest.fixture(autouse=True)
def all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block is kept at once, whatever that costs beside runs of a second."""
    monkeypatch.setattr("optimum_grail.state.budget.SHARE", 1e9)


def test_nothing_to_resume_is_told(tmp_path: Path) -> None:
    told = Stop("never", 0)
    GrailCompressor(tiny_llama(), {"preset": "magnitude"}).compress(None, tmp_path / "o", resume=True, progress=told)
    assert told.lines[0].startswith("There is nothing to resume for") and (tmp_path / "o" / "config.json").is_file()


def test_a_data_file_that_went_is_missed_and_taken_when_it_is_back(tmp_path: Path, prose: Any) -> None:
    text, small = tmp_path / "text.txt", {"dataset": str(tmp_path / "text.txt"), "num_samples": 6, "seqlen": 32}
    text.write_bytes(prose.calibration.read_bytes()[:20000])
    (tmp_path / "eval.txt").write_bytes(prose.held.read_bytes()[:3000])
    places: Any = {"save_directory": tmp_path / "out", "eval_dataset": str(tmp_path / "eval.txt")}
    folder = Path(__file__).resolve().parents[2] / "examples" / "llama-books-3m"
    config = {"preset": "wanda", **small}
    with pytest.raises(Stopped):
        GrailCompressor.from_pretrained(folder, config).compress(**places, progress=Stop("compressing", 3))
    whole = text.read_bytes()
    text.unlink()
    with pytest.raises(DataError, match=r"text\.txt"):
        GrailCompressor.from_pretrained(folder, config).compress(save_directory=tmp_path / "out", resume=True)
    text.write_bytes(whole.replace(b"e", b"a"))
    with pytest.raises(CheckpointError, match="the calibration data is not what it was"):
        GrailCompressor.from_pretrained(folder, config).compress(save_directory=tmp_path / "out", resume=True)
    text.write_bytes(whole)
    told = Stop("never", 0)
    compressor = GrailCompressor.from_pretrained(folder, config)
    compressor.compress(**places, resume=True, progress=told)
    assert "1 compressed block kept" in told.lines[0]
    assert not any("Measuring the dense model" in line for line in told.lines)
    (row,) = compressor.report.evaluation
    assert row["compressed"] > row["dense"] > 1 and row["agreement"]["kl"] > 0


class Removing(Silent):
    """Moves a file of the dense model away once the first block is done.

    Args:
        shard: the file.
        place: where it goes.
    """

    def __init__(self, shard: Path, place: Path) -> None:
        self.shard, self.place, self.running = shard, place, ""

    def start(self, total: int, description: str) -> None:
        self.running = description

    def update(self, advance: int, description: str) -> None:
        if self.running.startswith("compressing") and self.shard.exists():
            self.shard.rename(self.place)


def test_a_shard_that_went_is_missed_and_taken_when_it_is_back(tmp_path: Path) -> None:
    dense, shard = tiny_llama(), tmp_path / "dense" / "model-00004-of-00004.safetensors"
    dense.save_pretrained(tmp_path / "dense", max_shard_size="45KB")
    assert shard.exists()
    rows = [{"input_ids": torch.arange(3 + start, 15 + start)} for start in range(8)]

    def run(out: str, **more: Any) -> None:
        config = {"preset": "wanda+grail", "low_memory": True, "sparsity": 0.3}
        GrailCompressor.from_pretrained(tmp_path / "dense", config).compress(rows, tmp_path / out, **more)

    run("whole")
    with pytest.raises(CheckpointError, match=rf"{shard.name}.*--resume"):
        run("out", progress=Removing(shard, tmp_path / "away"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match=shard.name):
        run("out", resume=True)
    (tmp_path / "away").rename(shard)
    told = Stop("never", 0)
    run("out", resume=True, progress=told)
    assert "2 compressed blocks kept" in told.lines[0]
    assert files(tmp_path / "out") == files(tmp_path / "whole")


KILLED = """
import os, signal, sys
from optimum_grail.report import progress
from optimum_grail.state import budget
budget.SHARE = 1e9
update = progress.RichProgress.update

def last(self, advance, description):
    update(self, advance, description)
    if self._phase.name == "compressing" and self._phase.done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

progress.RichProgress.update = last
from optimum.commands.optimum_cli import main
sys.argv[0] = "optimum-cli"
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_sigkill_and_the_command_line(tmp_path: Path, embedded_llama: Path, cli: Any, capsys: Any) -> None:
    words = ("grail", "compress", "-m", str(embedded_llama), "--dataset", "self:starts=frequent")
    words += ("--num-samples", "6", "--seqlen", "32", "--sparsity", "0.3", "-o")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *words, str(tmp_path / "out")], env=os.environ, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [".grail-out.state"]
    assert cli(*words, str(tmp_path / "out"), "--resume") == 0
    shown = capsys.readouterr().err
    assert "Going on with the run of" in shown and "writes its own calibration text" not in shown
    assert cli(*words, str(tmp_path / "whole" / "out")) == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole" / "out")
