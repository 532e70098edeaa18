"""A run that was interrupted and resumed gives the same bytes as one that was not, wherever it stopped."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_basic, tiny_bottleneck
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import CheckpointError, OutputError
from optimum_grail.report.progress import Silent
from optimum_grail.report.report import REPORT_FILE, Report

TOLD = ("README.md", REPORT_FILE)
"""Files that tell times."""
TIMED = ("seconds", "forward", "peak_memory", "command")
UNIFORM = {"allocation": "uniform"}
"""Nothing is surveyed: sooner done."""


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


def samples_of(model: nn.Module, count: int = 10) -> list[dict[str, Tensor]]:
    """Inputs of ten tokens, an image, or both."""
    draw, config = torch.Generator().manual_seed(0), model.config
    vision, text = getattr(config, "vision_config", config), getattr(config, "text_config", config)
    found = []
    for _ in range(count):
        sample: dict[str, Tensor] = {}
        if getattr(text, "vocab_size", None):
            sample["input_ids"] = torch.randint(3, 90, (12,), generator=draw)
        if getattr(vision, "num_channels", None):
            size = getattr(vision, "image_size", 32)
            sample["pixel_values"] = torch.randn(3, size, size, generator=draw)
        found.append(sample)
    return found


def files(folder: Path) -> dict[str, Any]:
    """Bytes of the files in ``folder``; of the report everything but times."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in TOLD}
    report = json.loads((folder / REPORT_FILE).read_text())
    return {**found, "report": {key: value for key, value in report.items() if key not in TIMED}}


def states(folder: Path) -> list[Path]:
    return sorted(folder.glob(".grail-*.state*"))


def interrupted(build: Callable[[], nn.Module], config: Any, rows: Any, out: Path) -> Iterator[Stop]:
    """Run until the end, stopped after two more groups every time, which are a block; yields what ended each run."""
    for after in range(2, 100, 2):
        stop = Stop("compressing", after)
        with suppress(Stopped):
            GrailCompressor(build(), config).compress(rows, out, resume=True, progress=stop)
            return
        yield stop


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "llama": (tiny_llama, {}),
    "llama, float16 offloaded": (lambda: tiny_llama().half(), {"offload_streams": True}),
    "llama, trained blocks": (tiny_llama, {"preset": "wandapp+grail"}),
    "llama, added biases": (tiny_llama, {"affine": True}),
    "llama, blocks dropped": (tiny_llama, {"allocation": "block-influence", "sparsity": 0.5}),
    "llama, sub-blocks dropped": (tiny_llama, {"preset": "comp", "allocation": None}),
    "llama, folded": (tiny_llama, {"preset": "folding", "allocation": None}),
    "llama, without data": (tiny_llama, {"preset": "magnitude"}),
    "llama, gradients": (tiny_llama, {"preset": "fisher"}),
    "resnet, basic, producers refitted": (tiny_basic, {"refit": "producers"}),
    "bert": (tiny_bert, {}),
    "vit, joint": (tiny_vit, {"within_block": "joint"}),
    "clip": (tiny_clip, {}),
    "resnet": (tiny_bottleneck, {}),
    "resnet, basic, folded and refitted": (tiny_basic, {"selector": "folding", "compensator": "grail-plus"}),
}


@pytest.fixture(autouse=True)
def all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block is kept at once, whatever that costs beside runs of a second."""
    monkeypatch.setattr("optimum_grail.state.budget.SHARE", 1e9)


@pytest.mark.parametrize("case", CASES)
def test_stopped_after_every_block(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, fields = CASES[case]
    monkeypatch.setattr("optimum_grail.refits.producers.FEWEST", 8)
    config = {"sparsity": 0.3, **({} if case == "llama" else UNIFORM), **fields}
    rows = None if fields.get("preset") in ("folding", "magnitude") else samples_of(build())
    GrailCompressor(build(), config).compress(rows, tmp_path / "whole" / "out")
    stops = list(interrupted(build, config, rows, tmp_path / "parts" / "out"))
    assert stops
    assert ("refit" in fields) == any(row.producers for row in Report.load(tmp_path / "whole" / "out").groups)
    assert files(tmp_path / "parts" / "out") == files(tmp_path / "whole" / "out")
    assert states(tmp_path / "parts") == [], "the state has done its work"


@pytest.mark.parametrize("build", [tiny_clip, tiny_llama])
def test_whatever_can_be_afforded(
    build: Callable[[], nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks are written one by one, several at once, or not at all, within a stack and across stacks."""
    rows, draw = samples_of(build()), random.Random(1)
    GrailCompressor(build(), UNIFORM).compress(rows, tmp_path / "whole" / "out")
    monkeypatch.setattr("optimum_grail.state.budget.Budget.allows", lambda self, size: draw.random() < 0.4)
    assert list(interrupted(build, UNIFORM, rows, tmp_path / "parts" / "out"))
    assert files(tmp_path / "parts" / "out") == files(tmp_path / "whole" / "out")


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, told = samples_of(tiny_llama()), Stop("trying", 99)
    texts = [{"input_ids": row["input_ids"]} for row in rows]
    config = {"sparsity": 0.3, "allocation": "knapsack:budget=flops"}
    with pytest.raises(Stopped):
        GrailCompressor(tiny_llama(), config).compress(rows, tmp_path / "out", progress=Stop("compressing", 1))
    for place in ("survey.survey.Survey.run", "fit.rehearsal.Rehearsal.damage"):
        monkeypatch.setattr(f"optimum_grail.{place}", lambda *args: pytest.fail("measured again"))
    GrailCompressor(tiny_llama(), config).compress(texts, tmp_path / "out", resume=True, progress=told)
    assert any("Going on with the run of" in line and "what was measured" in line for line in told.lines)


def test_the_times_of_all_parts_add_up(tmp_path: Path) -> None:
    rows = samples_of(tiny_llama())
    with pytest.raises(Stopped):
        GrailCompressor(tiny_llama(), UNIFORM).compress(rows, tmp_path / "out", progress=Stop("compressing", 2))
    (state,) = states(tmp_path)
    kept = json.loads((state / "state.json").read_text())
    kept["seconds"]["fit"] = 1000.0
    (state / "state.json").write_text(json.dumps(kept))
    compressor = GrailCompressor(tiny_llama(), UNIFORM)
    compressor.compress(rows, tmp_path / "out", resume=True)
    assert 1000 < compressor.report.seconds["fit"] < 1100


def left_behind(out: Path, config: Any = None, after: int = 2) -> list[dict[str, Tensor]]:
    """Stop a run in the fit; returns its rows."""
    rows = samples_of(tiny_llama())
    with pytest.raises(Stopped):
        GrailCompressor(tiny_llama(), config or {}).compress(rows, out, progress=Stop("compressing", after))
    return rows


def test_a_new_run_leaves_an_old_state_alone(tmp_path: Path) -> None:
    rows, told = left_behind(tmp_path / "out"), Stop("never", 0)
    (old,) = states(tmp_path)
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    with pytest.raises(Stopped):
        GrailCompressor(tiny_llama(), {"seed": 5}).compress(rows, tmp_path / "out", progress=Stop("compressing", 4))
    assert len(states(tmp_path)) == 2
    GrailCompressor(tiny_llama(), {"sparsity": 0.4}).compress(rows, tmp_path / "out", progress=told)
    assert [line.partition("'out' left ")[2].partition(".")[0] for line in told.lines[:2]] == [
        "1 compressed block",
        "2 compressed blocks",
    ]
    assert all("--resume" in line and "delete" in line for line in told.lines[:2])
    assert {path: path.read_bytes() for path in before} == before
    assert len(states(tmp_path)) == 2, "its own state has gone"


def test_of_several_states_the_right_one_is_gone_on_with(tmp_path: Path) -> None:
    rows = left_behind(tmp_path / "out")
    left_behind(tmp_path / "out", {"seed": 5}, 4)
    whole = GrailCompressor(tiny_llama())
    whole.compress(rows, tmp_path / "whole" / "out")
    told = Stop("never", 0)
    GrailCompressor(tiny_llama()).compress(rows, tmp_path / "out", resume=True, progress=told)
    assert "1 compressed block kept in" in told.lines[0]
    assert files(tmp_path / "out") == files(tmp_path / "whole" / "out")
    (other,) = states(tmp_path)
    assert json.loads((other / "state.json").read_text())["identity"]["configuration"]["seed"] == 5


def test_another_machine_is_told(tmp_path: Path) -> None:
    rows, told = left_behind(tmp_path / "out"), Stop("never", 0)
    (state,) = states(tmp_path)
    kept = json.loads((state / "state.json").read_text())
    kept["machine"]["threads"] = 99
    (state / "state.json").write_text(json.dumps(kept))
    GrailCompressor(tiny_llama()).compress(rows, tmp_path / "out", resume=True, progress=told)
    assert "last bits may not be those" in told.lines[1] and "the number of threads was 99 and is" in told.lines[1]


def scaled(model: nn.Module) -> nn.Module:
    """The model with one weight changed."""
    with torch.no_grad():
        next(model.parameters()).mul_(1.001)
    return model


def spread(model: nn.Module) -> nn.Module:
    """The model with another config."""
    model.config.rms_norm_eps = 1e-5
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": 0.4}, "configuration sparsity was 0.2 and is 0.4"),
        ({"seed": 7, "ridge": 0.1}, "configuration ridge was .* and is 0.1; configuration seed was 42 and is 7"),
        (scaled, "the model's weights are not what it was"),
        (spread, "the model's config or code is not what it was"),
        (lambda model: model.double(), "the dtype was 'torch.float32' and is 'torch.float64'"),
        ("rows", "the calibration data is not what it was"),
        ("version", "version of torch was '0.1' and is"),
    ],
)
def test_another_run_is_refused_by_name(change: Any, message: str, tmp_path: Path) -> None:
    rows = left_behind(tmp_path / "out")
    (state,) = states(tmp_path)
    if change == "version":
        kept = json.loads((state / "state.json").read_text())
        kept["identity"]["versions"]["torch"] = "0.1"
        (state / "state.json").write_text(json.dumps(kept))
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    model = change(tiny_llama()) if callable(change) else tiny_llama()
    other = rows[:-1] + rows[:1] if change == "rows" else rows
    with pytest.raises(CheckpointError, match=message.replace("what it was", "what (it was|they were)")):
        GrailCompressor(model, change if isinstance(change, dict) else None).compress(
            other, tmp_path / "out", resume=True
        )
    assert {path: path.read_bytes() for path in before} == before and not (tmp_path / "out").exists()


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = samples_of(tiny_llama())
    GrailCompressor(tiny_llama()).compress(rows, tmp_path / "whole" / "out")
    with monkeypatch.context() as patch:
        writes = []

        def full(*args: Any) -> None:
            writes.append(args)
            if len(writes) == 2:
                raise OSError(28, "No space left on device")
            save(*args)

        from optimum_grail.checkpoints import block_store

        save = block_store.save_file
        patch.setattr(block_store, "save_file", full)
        with pytest.raises(OutputError, match=r"disk of .* is full .* go on with --resume"):
            GrailCompressor(tiny_llama()).compress(rows, tmp_path / "out")
    (state,) = states(tmp_path)
    assert not list(state.rglob("*.part"))
    GrailCompressor(tiny_llama()).compress(rows, tmp_path / "out", resume=True)
    assert files(tmp_path / "out") == files(tmp_path / "whole" / "out")


def test_a_run_that_was_killed_after_its_last_step_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between putting the output in its place and removing the state there is a moment, too."""
    rows = samples_of(tiny_llama())
    with monkeypatch.context() as patch:
        patch.setattr("optimum_grail.state.run_state.RunState.end", lambda self: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            GrailCompressor(tiny_llama()).compress(rows, tmp_path / "out")
    assert states(tmp_path) and (tmp_path / "out" / "config.json").is_file()
    first = files(tmp_path / "out")
    GrailCompressor(tiny_llama()).compress(rows, tmp_path / "out", resume=True)
    assert files(tmp_path / "out") == first and states(tmp_path) == []
    with pytest.raises(OutputError, match="exists and is not empty"):
        GrailCompressor(tiny_llama()).compress(rows, tmp_path / "out", resume=True)
