"""A state from anyone: what no run of this model can have written is refused in one line, or passed over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import CheckpointError, OutputError
from optimum_grail.fit.fit import FitRun
from optimum_grail.report.progress import Silent
from optimum_grail.state.folder import states_of

DRAW = torch.Generator().manual_seed(0)
ROWS = [{"input_ids": torch.randint(3, 90, (12,), generator=DRAW)} for _ in range(10)]
GROUP = "model.layers.0.mlp"
CONFIG = {"sparsity": 0.3, "selector": "folding"}


@pytest.fixture(scope="module")
def interrupted(interrupt: Callable[..., Path]) -> Path:
    """The folder in which a run that was ended in its second block was to write ``out``."""
    return interrupt(CONFIG, ROWS)


@pytest.fixture
def place(interrupted: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    shutil.copytree(interrupted, tmp_path / "place")
    return tmp_path / "place"


def state(place: Path) -> Path:
    return place / ".grail-out.state"


def resume(place: Path) -> GrailCompressor:
    compressor = GrailCompressor(tiny_llama(), CONFIG)
    compressor.compress(ROWS, place / "out", resume=True)
    return compressor


def rewrite(file: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> None:
    """A safetensors file with other tensors or metadata."""
    with safe_open(file, framework="pt") as opened:
        head = opened.metadata() or {}
    tensors = load_file(file)
    change(tensors, head)
    save_file(tensors, file, head)


def test_streams_are_kept_of_one_block(place: Path) -> None:
    found = (state(place) / "streams").rglob("*")
    assert [path.name for path in found if path.is_dir()] == ["model", "1"]


def test_the_first_block_is_not_fitted_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = []
    fit = FitRun._block_
    monkeypatch.setattr(FitRun, "_block_", lambda self, path, *rest: fitted.append(path) or fit(self, path, *rest))
    assert resume(place).plan[GROUP].reduction.slots < 64
    assert fitted == ["model.layers.1", "model.layers.2"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "7", '"x"', "[" * 100_000, '{"format": 2}', '{"format": "1"}', '{"format": 1}'),
        '{"format": 1, "identity": []}',
        '{"format": 1, "identity": {}, "seconds": {"fit": "long"}}',
        '{"format": 1, "identity": {}, "seconds": {"fit": NaN}}',
        '{"format": 1, "identity": {}, "started": "<script>"}',
        '{"format": 1, "identity": {}, "written": "../.."}',
        '{"format": 1, "identity": {}, "other": 1}',
        '{"format": 1, "identity": {"weights": ' + "1" * 5000 + "}}",
    ],
    ids=lambda text: text[:60] or "empty",
)
def test_a_first_page_that_is_none(text: str, place: Path) -> None:
    (state(place) / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"cannot be read: .*Delete the folder to begin anew\."):
        resume(place)
    told: list[str] = []
    progress = Silent()
    progress.message = told.append  # type: ignore[method-assign]
    GrailCompressor(tiny_llama(), {"preset": "magnitude"}).compress(None, place / "out", progress=progress)
    assert "cannot be read" in told[0], "it is told of, and blocks nobody"


def test_a_first_page_that_never_ends(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimum_grail.state.header.MOST_BYTES", 100)
    with pytest.raises(CheckpointError, match="more than 100 bytes"):
        resume(place)


def plan(part: str, value: Tensor | None) -> Callable[[dict[str, Tensor], dict[str, str]], None]:
    """Another tensor of the plan, or none."""

    def change(tensors: dict[str, Tensor], head: dict[str, str]) -> None:
        tensors.pop(f"plan/{GROUP}/{part}", None)
        if value is not None:
            tensors[f"plan/{GROUP}/{part}"] = value

    return change


def notes(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Tensor], dict[str, str]], None]:
    """Other notes."""

    def rewritten(tensors: dict[str, Tensor], head: dict[str, str]) -> None:
        found = json.loads(head["notes"])
        change(found["plans"])
        head["notes"] = json.dumps(found)

    return rewritten


def weight(value: Tensor) -> Callable[[dict[str, Tensor], dict[str, str]], None]:
    """Another readout."""
    return lambda tensors, head: tensors.update({"model.layers.0.mlp.down_proj.weight": value})


@pytest.mark.parametrize(
    "change",
    [
        plan("assignment", None),
        plan("assignment", torch.zeros(7, dtype=torch.int64)),
        plan("assignment", torch.arange(10_000)),
        plan("assignment", torch.full((64,), 99)),
        plan("assignment", torch.full((64,), -1)),
        plan("assignment", torch.arange(64) * 2),
        plan("assignment", torch.zeros(64)),
        plan("weight", torch.full((64,), torch.nan, dtype=torch.float64)),
        plan("order", torch.zeros(3, dtype=torch.int64)),
        plan("order", torch.full((3,), 64)),
        plan("order", torch.zeros(2, 2, dtype=torch.int64)),
        plan("curve", torch.zeros(3, dtype=torch.int64)),
        plan("curve", torch.zeros(1000, dtype=torch.float64)),
        notes(lambda plans: plans.pop(GROUP)),
        notes(lambda plans: plans.update({"model.layers.9.mlp": plans[GROUP]})),
        notes(lambda plans: plans.update({GROUP: 3})),
        notes(lambda plans: plans[GROUP].update(slots=63)),
        notes(lambda plans: plans[GROUP].update(slots="10")),
        notes(lambda plans: plans[GROUP].update(diagnostics=[1])),
        notes(lambda plans: plans[GROUP]["diagnostics"].update(chosen="](http://evil)")),
        notes(lambda plans: plans[GROUP]["diagnostics"].update(ridge={"a": 1})),
        lambda tensors, head: head.update(notes='{"plans": 1}'),
        weight(torch.zeros(3)),
        weight(torch.zeros(64, 10_000)),
        lambda tensors, head: tensors.pop("model.layers.0.mlp.down_proj.weight"),
        lambda tensors, head: tensors.update(
            {k: v.double() if "down_proj" in k else v for k, v in tensors.items()},
        ),
        lambda tensors, head: tensors["model.layers.0.mlp.down_proj.weight"].fill_(torch.inf),
        lambda tensors, head: head.update(owner="me"),
    ],
)
def test_blocks_that_are_none(change: Callable[[dict[str, Tensor], dict[str, str]], None], place: Path) -> None:
    rewrite(state(place) / "blocks" / "model.layers.0.safetensors", change)
    with pytest.raises(CheckpointError):
        resume(place)
    assert not (place / "out").exists()


def test_a_block_that_is_missing(place: Path) -> None:
    """Streams behind a block that is not there are good for nothing: the run begins at the first block."""
    (state(place) / "blocks" / "model.layers.0.safetensors").unlink()
    assert resume(place).plan is not None


def curves(name: str, value: Tensor | None) -> Callable[[dict[str, Tensor], dict[str, str]], None]:
    """Another tensor of a curve, or none."""

    def change(tensors: dict[str, Tensor], head: dict[str, str]) -> None:
        tensors.pop(f"curves/{GROUP}/{name}", None)
        if value is not None:
            tensors[f"curves/{GROUP}/{name}"] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        curves("errors", None),
        curves("errors", torch.zeros(9, dtype=torch.float64)),
        curves("errors", torch.full((65,), torch.nan, dtype=torch.float64)),
        curves("order", torch.full((63,), 64)),
        curves("order", torch.zeros(63, dtype=torch.int64)),
        curves("sensitivity", torch.zeros(2)),
        curves("more", torch.zeros(2)),
    ],
)
def test_surveys_that_are_none(change: Callable[[dict[str, Tensor], dict[str, str]], None], place: Path) -> None:
    (file,) = (state(place) / "measured").glob("survey-*")
    rewrite(file, change)
    with pytest.raises(CheckpointError, match=r"What an interrupted run measured cannot be used: .*begin anew\."):
        resume(place)


def test_a_survey_that_is_damaged_is_made_again(place: Path) -> None:
    (file,) = (state(place) / "measured").glob("survey-*")
    file.write_bytes(file.read_bytes()[:-9])
    assert resume(place).plan is not None


def test_a_link_is_no_state(place: Path, tmp_path: Path) -> None:
    state(place).rename(tmp_path / "elsewhere")
    state(place).symlink_to(tmp_path / "elsewhere")
    assert states_of(place / "out") == []


def test_two_processes_do_not_share_a_state(place: Path) -> None:
    from optimum_grail.checkpoints.work_folders import Hold

    hold = Hold.on(state(place))
    assert hold is not None
    with pytest.raises(OutputError, match="Another process is at work on"):
        resume(place)
    hold.release()
    assert resume(place).plan is not None


def test_names_of_states(tmp_path: Path) -> None:
    """Those of one output are not those of another, and a long name has one too."""
    names = (".grail-a.state", ".grail-a.state2", ".grail-a.state10", ".grail-a.state.state", ".grail-ab.state")
    for name in (*names, ".grail-a.statement"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text("{}")
    assert [path.name for path in states_of(tmp_path / "a")] == list(names[:3])
    assert [path.name for path in states_of(tmp_path / "a.state")] == [names[3]]
    assert states_of(tmp_path / ("x" * 255)) == [] and states_of(tmp_path / "no" / "such") == []
