"""The whole way once: compress the embedded model, read what was written, load it as its card says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from optimum_grail.config.config import GrailConfig
from optimum_grail.report.report import Report


@pytest.fixture(scope="module")
def folder(tmp_path_factory, embedded_llama):
    """Written by the program itself, with the quickest preset."""
    place = tmp_path_factory.mktemp("run")
    (place / "eval.txt").write_text("It was a dark and stormy night; the rain fell in torrents. " * 40)
    words = ["-m", str(embedded_llama), "-o", "small", "--preset", "magnitude", "--sparsity", "0.25", "--seqlen", "64"]
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", "grail", "compress", *words]
    command += ["--eval-dataset", "eval.txt", "--json"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (place / "stdout.json").write_text(done.stdout)
    (place / "stderr.txt").write_text(done.stderr)
    return place / "small"


def test_standard_output_is_the_report_that_was_written(folder):
    printed = json.loads((folder.parent / "stdout.json").read_text())
    assert printed["output"] == str(folder)
    assert Report.from_dict(printed["report"]) == Report.load(folder)


def test_standard_error_is_progress_and_nothing_else(folder):
    shown = (folder.parent / "stderr.txt").read_text()
    lines = shown.partition("asked 25.0 %")[0].splitlines()  # behind it comes the report: --json sends it there
    told = ("Measuring the dense model", "Measuring the compressed model", "perplexity", "compressing")
    assert [line for line in lines if not line.startswith(told)] == []
    assert lines.count("compressing ...") == 1 and not any("\x1b" in line for line in lines)
    assert len([line for line in lines if line.startswith("compressing: ")]) == 7, "six blocks, and the end"


def test_report_tells_the_run(folder):
    report = Report.load(folder)
    assert report.asked == {"sparsity": 0.25}
    assert 0.25 <= report.achieved < 0.26
    assert report.calibration is None and report.standalone and report.model_class == "LlamaForCausalLM"
    (row,) = report.evaluation
    assert row["metric"] == "perplexity" and 1 < row["dense"] < row["compressed"]


def test_configuration_repeats_the_run(folder):
    config = GrailConfig.from_pretrained(folder)
    assert (config.preset, config.sparsity, config.within_block) == ("magnitude", 0.25, "joint")


def test_card_is_runnable_and_private(folder):
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "transformers" and card.data.base_model is None
    assert str(folder.parent) not in str(card)
    code = card.text.split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_compressed_checkpoints_are_told_and_refused(folder, cli, capsys):
    assert cli("grail", "inspect", "-m", str(folder)) == 0
    assert "compressed already" in capsys.readouterr().out
    assert cli("grail", "compress", "-m", str(folder), "-o", str(folder.parent / "again")) == 2
    assert "--allow-recompress" in capsys.readouterr().err
    assert not (folder.parent / "again").exists()
