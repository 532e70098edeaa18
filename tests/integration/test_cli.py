"""``optimum-cli grail`` as people and scripts use it: a whole session, exit codes, what is printed where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from optimum_grail.commands.list_methods import TOPICS
from optimum_grail.config.options import OPTIONS
from optimum_grail.errors import GrailError
from optimum_grail.report.report import Report

Cli = Callable[..., int]
FAST = ("--preset", "wanda", "--num-samples", "6", "--seqlen", "32")


@pytest.fixture(scope="module")
def text(prose: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short text to measure on."""
    path = tmp_path_factory.mktemp("text") / "eval.txt"
    path.write_text(prose.held.read_text(encoding="utf-8")[:6000], encoding="utf-8")
    return path


def program(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", "grail", *map(str, words)]
    environment = os.environ | {"COLUMNS": "100"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def session(embedded_llama: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A newcomer's first command, with its defaults but less data: what it printed, and where it wrote."""
    folder = tmp_path_factory.mktemp("session")
    words = ("-m", embedded_llama, "-o", "small", "--num-samples", "8", "--seqlen", "64", "--eval-dataset", text)
    return program("compress", *words, folder=folder), folder / "small"


def test_first_command(session: Any, text: Path) -> None:
    done, folder = session
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for part in (
        "asked 20.0 % of the blocks' parameters, achieved 20.",
        "of the whole model's parameters gone",
        "attention: ",
        "feed-forward channels: 512 -> ",
        "llama-books-3m: before and after",
        "perplexity on",
        "calibrated on self, seed 42: 8 samples, 512 tokens",
        f"Written to {folder}",
    ):
        assert part in done.stdout, done.stdout
    for part in (
        "the model writes its own calibration text",
        "Needs ",
        "Measuring the dense model",
        "measuring what each layer can lose: 12 of 12 in",
        " of 12 in ",
        "compressing: ",
        "compressed model",
    ):
        assert part in done.stderr, done.stderr
    assert Report.load(folder).evaluation[0]["dataset"] == str(text)


def test_inspect_and_evaluate_what_was_written(session: Any, text: Path, cli: Cli, capsys: Any) -> None:
    _, folder = session
    assert cli("grail", "inspect", "-m", folder) == 0
    shown = capsys.readouterr().out
    assert "compressed already" in shown and "heads" in shown and "any width" in shown
    words = ("--dataset", text, "--metric", "perplexity", "--seqlen", "64")
    assert cli("grail", "evaluate", "-m", folder, *words) == 0
    assert "perplexity  " in capsys.readouterr().out
    assert cli("grail", "evaluate", "-m", folder, *words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = Report.load(folder).evaluation
    assert found["perplexity"] == pytest.approx(row["compressed"], rel=1e-6)
    assert (found["metric"], found["model"], found["dataset"]) == ("perplexity", str(folder), str(text))
    assert found["windows"] > 10 and "protocol" in found


@pytest.mark.parametrize("name", ["default", "free"])
def test_inspect_of_real_checkpoints(
    name: str, cli: Cli, capsys: Any, embedded_llama: Path, llama_run: Callable[[str], Any]
) -> None:
    run = llama_run(name)
    for folder, compressed in ((embedded_llama, False), (run.folder, True)):
        assert cli("grail", "inspect", "-m", folder, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["compressed"] == compressed and found["class"] == "LlamaForCausalLM"
        assert len(found["groups"]) == 12
        assert sum(row["groups"] for row in found["families"]) == 12
        assert 0 < found["largest_standalone_sparsity"] <= found["largest_sparsity"] < 1
    assert found["parameters"] == run.compressor.report.parameters_after
    assert cli("grail", "inspect", "-m", run.folder) == 0
    assert "compressed already" in capsys.readouterr().out


def test_inspect_where_only_the_table_knows_the_width(cli: Cli, capsys: Any, tmp_path: Path) -> None:
    """Heads of a BERT: the config says 4, the modules have 2."""
    from optimum_grail.architectures.bert import tiny_bert
    from optimum_grail.compressor import GrailCompressor

    GrailCompressor(tiny_bert(), {"preset": "magnitude", "head_sparsity": 0.5}).compress(save_directory=tmp_path / "o")
    assert cli("grail", "inspect", "-m", tmp_path / "o") == 0
    assert "table only" in capsys.readouterr().out
    assert cli("grail", "inspect", "-m", tmp_path / "o", "--json") == 0
    (heads, _) = json.loads(capsys.readouterr().out)["families"]
    assert (heads["kind"], heads["units"], heads["expressible"]) == ("heads", 2, [])


def test_json_is_one_object_alone_on_standard_output(
    cli: Cli, capfd: Any, embedded_llama: Path, text: Path, tmp_path: Path
) -> None:
    words = ("-m", embedded_llama, "-o", tmp_path / "out", *FAST, "--allocation", "knapsack", "--dataset", text)
    assert cli("grail", "compress", *words, "--json") == 0
    shown = capfd.readouterr()
    printed = json.loads(shown.out)
    assert printed["output"] == str(tmp_path / "out")
    assert Report.from_dict(printed["report"]) == Report.load(tmp_path / "out")
    assert "Warning: Widths differ between layers" in shown.err and "before and after" in shown.err


@pytest.mark.parametrize("topic", [None, *TOPICS])
def test_list(topic: str | None, cli: Cli, capsys: Any) -> None:
    words = [] if topic is None else [topic]
    assert cli("grail", "list", *words) == 0
    shown = capsys.readouterr().out
    assert cli("grail", "list", *words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ([topic] if topic else list(TOPICS))
    for rows in found.values():
        assert rows
        for row in rows:
            assert row["name"] in shown and row["summary"]


def test_list_of_what_does_not_exist(cli: Cli, capsys: Any) -> None:
    assert cli("grail", "list", "presents") == 2
    assert "presets" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compress", "evaluate", "inspect", "list"])
def test_help_has_examples_that_parse(command: str, cli: Cli, capsys: Any) -> None:
    assert cli("grail", command, "--help") == 0
    shown = capsys.readouterr().out
    examples = [line.strip() for line in shown.split("examples:")[1].splitlines() if "optimum-cli" in line]
    assert len(examples) >= 2
    for line in examples:
        words = line.split("     ")[0].split()  # remarks stand behind a wide gap
        begin = words.index("optimum-cli")
        assert words[begin : begin + 3] == ["optimum-cli", "grail", command]
        assert words[:begin] in ([], ["torchrun", "--nproc-per-node", "2", "--no-python"])
    if command == "compress":
        assert all(option.flag in shown for option in OPTIONS)


def test_help_lists_the_commands(cli: Cli, capsys: Any) -> None:
    assert cli("grail", "--help") == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("compress", "evaluate", "inspect", "list"))


def test_flags_win_over_the_file_and_the_file_over_the_preset(
    cli: Cli, capsys: Any, embedded_llama: Path, text: Path, tmp_path: Path
) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"preset": "grail", "ridge": 0.01, "sparsity": 0.3, "num_samples": 5, "seqlen": 48}))
    words = ("-m", embedded_llama, "-o", tmp_path / "out", "--config", file, "--dataset", text)
    assert cli("grail", "compress", *words, "--ffn-sparsity", "0.25", "--num-samples", "6", "--seed", "7") == 0
    made = json.loads((tmp_path / "out" / "grail_config.json").read_text(encoding="utf-8"))
    assert (made["preset"], made["selector"], made["within_block"]) == ("grail", "wanda", "joint")  # preset
    assert (made["ridge"], made["seqlen"]) == (0.01, 48)  # file
    assert (made["ffn_sparsity"], made["sparsity"], made["num_samples"], made["seed"]) == (0.25, None, 6, 7)  # flags
    report = Report.load(tmp_path / "out")
    assert report.asked == {"ffn_sparsity": 0.25} and report.calibration.samples == 6
    assert "asked 25.0 % of the FFN channels, achieved 25.0 %" in capsys.readouterr().out
    again = ("-m", embedded_llama, "-o", tmp_path / "again", "--config", tmp_path / "out" / "grail_config.json")
    assert cli("grail", "compress", *again) == 0, "what was saved repeats the run"
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again")]
    assert weights[0] == weights[1]


def test_overwrite(cli: Cli, capsys: Any, embedded_llama: Path, text: Path, tmp_path: Path) -> None:
    words = ("grail", "compress", "-m", embedded_llama, "-o", tmp_path / "out", "--preset", "magnitude")
    assert cli(*words, "--sparsity", "0.2") == 0
    first = Report.load(tmp_path / "out")
    mine = tmp_path / "out" / "mine.gguf"
    mine.write_text("made from it")
    capsys.readouterr()
    assert cli(*words, "--sparsity", "0.4") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert Report.load(tmp_path / "out") == first
    assert cli(*words, "--sparsity", "0.4", "--overwrite") == 2
    assert "mine.gguf" in capsys.readouterr().err and mine.read_text() == "made from it"
    mine.unlink()
    assert cli(*words, "--sparsity", "0.4", "--overwrite") == 0
    assert Report.load(tmp_path / "out").asked == {"sparsity": 0.4}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_weights_can_stay_on_disk(cli: Cli, capsys: Any, embedded_llama: Path, text: Path, tmp_path: Path) -> None:
    words = ("grail", "compress", "-m", embedded_llama, "--preset", "wanda+grail", "--dataset", text)
    sizes = ("--num-samples", 4, "--seqlen", 16)
    for flag, place in (("--low-memory", "parts"), ("--no-low-memory", "whole")):
        assert cli(*words, *sizes, "-o", tmp_path / place, flag) == 0
        assert ("weights stay on disk" in capsys.readouterr().err) == (place == "parts")
    names = {name: {file.name for file in (tmp_path / name).iterdir()} for name in ("parts", "whole")}
    assert names["parts"] == names["whole"]
    weights = [load_file(tmp_path / place / "model.safetensors") for place in names]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_dry_run_tells_the_plan_and_writes_nothing(
    cli: Cli, capsys: Any, embedded_llama: Path, text: Path, tmp_path: Path
) -> None:
    words = ("grail", "compress", "-m", embedded_llama, "-o", tmp_path / "out", "--dry-run", "--sparsity", 0.3)
    assert cli(*words, "--num-samples", 8, "--seqlen", 64, "--eval-dataset", text) == 0
    shown = capsys.readouterr().out
    for part in (
        "parameters are in the repeated blocks",
        "at most ",
        "feed-forward channels: 512 in each of 6",
        "Needs ",
    ):
        assert part in shown
    assert "(8 samples, 512 tokens)" in shown and "Written to" not in shown
    assert cli(*words, "--preset", "magnitude", "--json") == 0
    found = json.loads(capsys.readouterr().out)["forecast"]
    assert found["block_parameters_after"] == pytest.approx(0.7 * found["block_parameters"], rel=0.02)
    assert found["needs"] is None and {kind["kind"] for kind in found["kinds"]} == {"heads", "mlp"}
    assert cli(*words, "--eval-dataset", "no-such-file.txt") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (GrailError("the rows are odd."), 2, "Error: the rows are odd.\n"),
        (RuntimeError("a defect"), 1, "Error: RuntimeError: a defect (--debug shows where)\n"),
        (KeyboardInterrupt(), 130, "Error: interrupted; no output folder was written or changed.\n"),
    ],
    ids=["input", "defect", "interrupt"],
)
def test_exit_codes(
    error: BaseException, code: int, message: str, cli: Cli, capsys: Any, monkeypatch: Any, embedded_llama: Path
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("optimum_grail.pipeline.stages.load_calibration", fail)
    words = ("grail", "compress", "-m", embedded_llama, "-o", "never", *FAST)
    assert cli(*words) == code
    shown = capsys.readouterr()
    assert shown.err.endswith(message) and "Traceback" not in shown.err and shown.out == ""
    assert cli(*words, "--debug", "--json") == code
    shown = capsys.readouterr()
    assert "Traceback (most recent call last)" in shown.err and shown.err.endswith(message) and shown.out == ""


def test_a_process_fails_like_its_session(tmp_path: Path) -> None:
    done = program("evaluate", "-m", "./nowhere", "--dataset", "x.txt", "--metric", "perplexity", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    line = done.stderr.splitlines()[-1]  # libraries that are installed beside us may have something to say before it
    assert line.startswith("Error: ") and "'./nowhere'" in line and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("compress",),
        ("compress", "-m", "x"),
        ("compress", "-m", "x", "-o", "y", "--no-such-flag"),
        ("compress", "-m", "x", "-o", "y", "--dtype", "int3"),
        ("compress", "-m", "x", "-o", "y", "--num-samples", "many"),
        ("evaluate",),
        ("crush",),
    ],
    ids=" ".join,
)
def test_usage_errors(words: tuple[str, ...], cli: Cli, capsys: Any) -> None:
    code = cli("grail", *words)
    shown = capsys.readouterr()
    assert code == 2 if words else code == 0
    assert "usage: " in shown.err + shown.out
