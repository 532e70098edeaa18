"""The example scripts run as a user runs them, and show what they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(script: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the demo, run small, printed, and the folder it wrote."""
    folder = tmp_path_factory.mktemp("demo")
    return script("demo", "--num-samples", "16", "--eval-windows", "4", "--output", folder), folder


def test_demo_prints_the_comparison_and_how_to_load(demo: tuple[str, Path]) -> None:
    output, folder = demo
    for part in (
        "dense",
        "plainly pruned",
        "compensated",
        "perplexity",
        "KL",
        "parameters",
        "bytes",
        "tokens per second",
    ):
        assert part in output
    assert f'from_pretrained("{folder / "demo"}")' in output
    assert "the same." in output


def test_demo_writes_checkpoint_card_and_figures(demo: tuple[str, Path]) -> None:
    _, folder = demo
    assert {"config.json", "model.safetensors", "README.md", "tokenizer.json"} <= {
        file.name for file in (folder / "demo").iterdir()
    }
    outcome = json.loads((folder / "demo_result.json").read_text(encoding="utf-8"))
    results = outcome["results"]
    assert outcome["achieved"] == pytest.approx(0.5, abs=0.005)
    assert results["compensated"]["kl"] < results["plainly pruned"]["kl"]
    assert (
        results["compensated"]["parameters"] == results["plainly pruned"]["parameters"] < results["dense"]["parameters"]
    )
    assert {"seed", "versions", "hardware", "seconds"} <= set(outcome)


def test_custom_module_regains_most_of_the_accuracy(script: Callable[..., str], data_dir: Path) -> None:
    shown = script("custom_module", "--data", data_dir, "--num-samples", "384", "--eval-samples", "500", "--json")
    results: dict[str, dict[str, Any]] = json.loads(shown)["results"]
    assert results["dense"]["accuracy"] == pytest.approx(0.91, abs=0.01)
    assert results["grail-plus"]["accuracy"] >= 0.79
    assert results["grail-plus"]["accuracy"] > results["grail"]["accuracy"] > results["none"]["accuracy"]
    for name in ("none", "grail", "grail-plus"):
        assert results[name]["accuracy_reloaded"] == results[name]["accuracy"]


def test_custom_module_says_what_data_it_lacks(repository: Path, tmp_path: Path) -> None:
    """In a process of its own, as all of them are run by hand."""
    command = [sys.executable, "examples/custom_module.py", "--data", str(tmp_path)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cifar-resnets/resnet20/model.safetensors" in done.stderr
    assert "--data" in done.stderr


@pytest.mark.parametrize(
    "script",
    [
        "tables.py",
        "methods_tables.py",
        "methods_plot.py",
        "cost_tables.py",
        "recovery_tables.py",
        "shapes_tables.py",
        "patterns_tables.py",
        "vocabulary_tables.py",
        "corpora_tables.py",
        "families_tables.py",
        "choose_tables.py",
        "llama_cpp_tables.py",
        "engines_tables.py",
        "speed_tables.py",
        "real_tables.py",
    ],
)
def test_the_benchmark_pages_are_those_of_the_results(script: str, repository: Path) -> None:
    command = [sys.executable, f"benchmarks/{script}", "--check"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
