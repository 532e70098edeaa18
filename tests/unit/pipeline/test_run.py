"""The run function: what it returns, whom it tells, and what it leaves of a model when it fails."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.compressor import GrailCompressor
from optimum_grail.config.config import GrailConfig
from optimum_grail.data.batches import CalibrationData
from optimum_grail.errors import BudgetError, CheckpointError, DataError
from optimum_grail.pipeline import stages
from optimum_grail.pipeline.run import Run, compress_
from optimum_grail.pipeline.setup import Setup, Unwatched
from optimum_grail.report.progress import Silent
from optimum_grail.selectors.obs import Obs
from optimum_grail.sweep import Sweep

DRAW = torch.Generator().manual_seed(0)
ROWS = [{"input_ids": torch.randint(3, 90, (12,), generator=DRAW)} for _ in range(10)]


def setup_of(**fields: Any) -> Setup:
    return Setup(GrailConfig(**{"sparsity": 0.4, "batch_size": 5, **fields}).resolved())


class Recorder(Unwatched):
    """Notes what a watch is shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def dense(self, model: nn.Module, data: CalibrationData | None) -> None:
        self._note("dense", model, data)

    def compressed(self, model: nn.Module, data: CalibrationData | None) -> None:
        self._note("compressed", model, data)

    def _note(self, what: str, model: nn.Module, data: CalibrationData | None) -> None:
        parameter = next(model.parameters())
        self.seen.append((what, sum(p.numel() for p in model.parameters()), model.training, parameter.dtype, data))


def test_a_run_is_told_whole_and_watched_before_and_after() -> None:
    model, watch = tiny_llama().to(torch.bfloat16).train(), Recorder()
    run = compress_(model, setup_of(), ROWS, watch)
    assert isinstance(run, Run) and run.data is not None and run.standalone
    assert watch.seen == [
        ("dense", run.before.parameters, False, torch.float32, run.data),
        ("compressed", run.after.parameters, False, torch.float32, run.data),
    ]
    assert model.training and {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert set(run.seconds) == {"data", "evaluation", "survey", "fit"}
    assert {row.name: row.units for row in run.layout.groups} == run.layout.widths
    again = compress_(tiny_llama().to(torch.bfloat16), setup_of(), run.data)
    assert again.data is run.data and "data" not in again.seconds, "data that was read is not read again"
    assert again.widths == run.widths and again.before == run.before and again.after == run.after


def fail_at(monkeypatch: pytest.MonkeyPatch, group: int, error: BaseException) -> None:
    """Let the selector fail at its ``group``-th group of the fit."""
    real, calls = Obs.__call__, []

    def failing(self: Obs, problem: Any, keep: int) -> Any:
        calls.append(problem.name)
        if len(calls) == group:
            raise error
        return real(self, problem, keep)

    monkeypatch.setattr(Obs, "__call__", failing)


@pytest.mark.parametrize("error", [RuntimeError("a defect"), KeyboardInterrupt()], ids=["defect", "interrupt"])
def test_a_run_that_broke_off_leaves_a_model_that_nothing_takes(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama().train()
    compressor = GrailCompressor(model, {"sparsity": 0.4, "allocation": "uniform", "batch_size": 5})
    with monkeypatch.context() as patch:
        fail_at(patch, 3, error)
        with pytest.raises(type(error)):
            compressor.compress(ROWS)
    assert all(module.training for module in model.modules())
    takers: list[Callable[[], Any]] = [
        lambda: compressor.compress(ROWS),
        lambda: compressor.forecast(ROWS),
        lambda: GrailCompressor(model),
        lambda: GrailCompressor(copy.deepcopy(model), {"allow_recompress": True}),
        lambda: Sweep(model),
        lambda: compress_(model, setup_of(), ROWS),
    ]
    for take in takers:
        with pytest.raises(CheckpointError, match=r"half compressed.*Load the dense model again"):
            take()


def untouched(model: nn.Module, reference: nn.Module) -> bool:
    state, expected = model.state_dict(), reference.state_dict()
    same = state.keys() == expected.keys() and all(state[name].equal(expected[name]) for name in expected)
    dtypes = all(state[name].dtype == expected[name].dtype for name in expected)
    return same and dtypes and model.config.to_dict() == reference.config.to_dict()


@pytest.mark.parametrize(
    ("fields", "dataset", "error"),
    [
        ({"preset": "flap"}, [{"wrong": torch.ones(3)}], DataError),
        ({"preset": "flap", "sparsity": 0.99}, ROWS, BudgetError),
        ({}, "no-such-file.txt", DataError),
    ],
    ids=["data", "budget", "path"],
)
def test_a_run_that_was_refused_leaves_the_model_as_it_was(
    fields: dict[str, Any], dataset: Any, error: type[Exception]
) -> None:
    model = tiny_llama().to(torch.bfloat16).train()
    reference = copy.deepcopy(model)
    with pytest.raises(error):
        compress_(model, setup_of(**fields), dataset)
    assert untouched(model, reference) and all(module.training for module in model.modules())
    assert compress_(model, setup_of(), ROWS).after == compress_(reference, setup_of(), ROWS).after


def test_failing_before_the_first_weight_changed_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama()
    with monkeypatch.context() as patch:
        fail_at(patch, 1, RuntimeError("at the first group"))
        with pytest.raises(RuntimeError):
            compress_(model, setup_of(allocation="uniform"), ROWS)
    assert untouched(model, tiny_llama())
    compress_(model, setup_of(), ROWS)


class Told(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def test_the_estimate_comes_before_the_model_writes_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    real, texts = stages.load_calibration, []

    def reading(*args: Any, **kwargs: Any) -> CalibrationData:
        texts.append(list(told.lines))
        return real(*args, **kwargs)

    monkeypatch.setattr(stages, "load_calibration", reading)
    config = GrailConfig(sparsity=0.4, num_samples=10, seqlen=12).resolved()
    run = compress_(tiny_llama(), Setup(config, progress=told))
    assert run.data is not None and (run.data.samples, run.data.tokens) == (10, 120)
    ((first,),) = texts
    assert first.startswith("Needs ") and "10 samples, 120 tokens" in first
    assert sum(line.startswith("Needs ") for line in told.lines) == 1


def test_the_estimate_of_data_that_has_to_be_read_comes_after() -> None:
    told = Told()
    compress_(tiny_bert(), Setup(setup_of().config, progress=told), ROWS)
    assert [line.split()[0] for line in told.lines] == ["Reading", "Needs"]
