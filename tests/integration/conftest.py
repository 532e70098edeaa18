"""Real text from every interpreter, runs on the embedded LLaMA that tests share, and the program in this process."""

from __future__ import annotations

import contextlib
import copy
import io
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from optimum.commands.base import RootOptimumCLICommand
from torch import Tensor

from optimum_grail.commands.grail import GrailCommand
from optimum_grail.compressor import GrailCompressor

CALIBRATION: dict[str, Any] = {"num_samples": 16, "seqlen": 128}
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "uncompensated": {"compensator": "none"},
    "grail": {"preset": "grail"},
    "wanda": {"preset": "wanda"},
    "self": {"dataset": "self", "allocation": "uniform"},
    "self, uncompensated": {"dataset": "self", "allocation": "uniform", "compensator": "none"},
    "free": {"allocation": "knapsack"},
    "rounded": {"preset": "magnitude", "ffn_sparsity": 0.4, "round_to": 32},
}
"""Ways to compress the embedded LLaMA; calibrated on the first half of the prose where nothing else is said."""


@dataclass(frozen=True)
class Prose:
    """The documentation that ships with Python, in two halves that share no topic.

    Args:
        calibration: a text file to calibrate on.
        held: a text file to measure on.
    """

    calibration: Path
    held: Path

    @property
    def sentences(self) -> list[str]:
        """Paragraphs of the half to calibrate on that read like prose."""
        paragraphs = self.calibration.read_text(encoding="utf-8").split("\n\n")
        joined = (" ".join(paragraph.split()) for paragraph in paragraphs)
        return [text for text in joined if 40 < len(text) < 400 and text[0].isupper() and text.endswith(".")]


@dataclass(frozen=True)
class Run:
    """A compression that was saved.

    Args:
        folder: the checkpoint.
        compressor: with the compressed model, report and plan.
    """

    folder: Path
    compressor: GrailCompressor


@pytest.fixture(scope="session")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Prose:
    """Two files of technical English, 200 kB each."""
    folder = tmp_path_factory.mktemp("prose")
    names = sorted(topics)
    found = Prose(folder / "calibration.txt", folder / "held.txt")
    found.calibration.write_text("\n\n".join(topics[name] for name in names[::2]), encoding="utf-8")
    found.held.write_text("\n\n".join(topics[name] for name in names[1::2]), encoding="utf-8")
    return found


@pytest.fixture(scope="session")
def compress_llama(embedded_llama: Path, prose: Prose) -> Callable[..., GrailCompressor]:
    """Compress the embedded LLaMA, on the prose and in small; returns the compressor, nothing saved."""

    def run(**settings: Any) -> GrailCompressor:
        config = {"dataset": str(prose.calibration)} | CALIBRATION | settings
        compressor = GrailCompressor.from_pretrained(embedded_llama, config)
        compressor.compress()
        return compressor

    return run


@pytest.fixture(scope="session")
def llama_run(
    compress_llama: Callable[..., GrailCompressor], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Run]:
    """The run of one of the recipes, made once and saved; tests must not change it."""

    @cache
    def run(name: str) -> Run:
        recipe = RECIPES[name]
        sized = recipe if "ffn_sparsity" in recipe else {"sparsity": 0.5, **recipe}
        compressor = compress_llama(**sized)
        folder = tmp_path_factory.mktemp("llama") / name
        compressor.save_pretrained(folder)
        return Run(folder, compressor)

    return run


@pytest.fixture(scope="session")
def held_windows(embedded_llama: Path, prose: Prose) -> Tensor:
    """32 windows of 128 tokens of the prose that nothing was calibrated on."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_llama)
    ids = tokenizer(prose.held.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    return torch.tensor(ids[: 32 * 128]).view(32, 128)


@pytest.fixture(scope="session")
def loss(held_windows: Tensor) -> Callable[[Any], float]:
    """Nats per token of a language model on the held-out prose, computed in float32 on a copy."""

    @torch.inference_mode()
    def measure(model: Any) -> float:
        logits = copy.deepcopy(model).float()(input_ids=held_windows, use_cache=False).logits[:, :-1]
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), held_windows[:, 1:].flatten()))

    return measure


@pytest.fixture(scope="session")
def cli() -> Callable[..., int]:
    """Run ``optimum-cli`` with these words in this process; returns the exit code."""

    def run(*words: str | Path) -> int:
        root = RootOptimumCLICommand("optimum-cli")
        GrailCommand(root.subparsers)
        try:
            args = root.parser.parse_args([str(word) for word in words])
            args.func(args).run()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


@pytest.fixture
def quanto(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``optimum.quanto`` from the folder that the Makefile gives it; the test is skipped where there is none."""
    monkeypatch.syspath_prepend(str(Path(sys.prefix) / "optimum-quanto"))
    return pytest.importorskip("optimum.quanto")


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run code in a fresh interpreter, in a folder of its own; returns what it printed."""

    def run(code: str, *arguments: str | Path) -> str:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        folder = tmp_path_factory.mktemp("elsewhere")
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def script(repository: Path) -> Callable[..., str]:
    """Run a script of ``examples`` in this process, as its command line would; returns what it printed."""

    def run(name: str, *arguments: str | Path) -> str:
        path = repository / "examples" / f"{name}.py"
        shown = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown):
            patch.setenv("COLUMNS", "120")
            patch.setattr(sys, "argv", [str(path), *map(str, arguments)])
            patch.syspath_prepend(str(path.parent))
            runpy.run_path(str(path), run_name="__main__")
        return shown.getvalue()

    return run


def tree(folder: Path) -> dict[str, int]:
    """Every file and folder below, with its size."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*"))}


@pytest.fixture(scope="session")
def text(prose: Prose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short text to calibrate on."""
    path = tmp_path_factory.mktemp("text") / "rows.txt"
    path.write_text(prose.calibration.read_text(encoding="utf-8")[:20000], encoding="utf-8")
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the output would go; empty."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.fixture
def refuse(cli: Callable[..., int], capsys: Any, place: Path) -> Callable[..., tuple[str, str]]:
    """Run ``grail compress`` on bad input; returns the error's class and message.

    Checks that the exit code is 2, that there is one line and no traceback, that the work had not begun, and that
    nothing was written beside the output and in the model's folder, but for the state of a run that had begun to work.
    """

    def run(model: Path | str, *words: str | Path, output: Path | None = None, early: bool = True) -> tuple[str, str]:
        out = output or place / "out"
        before = [tree(folder) for folder in (place, Path(model)) if folder.exists()]
        command = ("grail", "compress", "-m", model, "-o", out, *words)
        assert cli(*command) == 2
        shown = capsys.readouterr()
        line = shown.err.strip().splitlines()[-1]
        assert line.startswith("Error: ") and "Traceback" not in shown.err and shown.out == ""
        if early:
            assert not re.search(r"^(survey|fit)$", shown.err, re.MULTILINE), "found out after the work had begun"
        assert cli(*command, "--debug", "--json") == 2
        kinds = re.findall(r"^optimum_grail\.errors\.(\w+): ", capsys.readouterr().err, re.MULTILINE)
        states = [path for path in place.iterdir() if path.name.startswith(".grail-") and ".state" in path.name]
        assert not (early and states)
        for path in states:  # what a run that failed late has done is not lost
            shutil.rmtree(path)
        assert [tree(folder) for folder in (place, Path(model)) if folder.exists()] == before
        return kinds[-1], line

    return run


@pytest.fixture
def broken(embedded_llama: Path, tmp_path: Path) -> Path:
    """A copy of the model to damage."""
    folder = tmp_path / "broken"
    shutil.copytree(embedded_llama, folder)
    return folder
