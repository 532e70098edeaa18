"""One compression shared by real processes: the result is that of one, whatever the number, split and method."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.compressor import GrailCompressor
from optimum_grail.data.portion import Portion
from optimum_grail.errors import DataError
from optimum_grail.fit.fit import FitRun
from optimum_grail.report.report import Report
from optimum_grail.signals.gradient_curves import GradientCurves
from optimum_grail.streams.collect import Collector

Run = Callable[[int, Callable[[], Any]], list[Any]]
Data = Sequence[Mapping[str, Tensor]]
NEAR = 1e-6


def ids(count: int, tokens: int = 12) -> Data:
    draws = (torch.Generator().manual_seed(index) for index in range(count))
    return [{"input_ids": torch.randint(3, 60, (tokens,), generator=draw)} for draw in draws]


def images(count: int) -> Data:
    draws = (torch.Generator().manual_seed(index) for index in range(count))
    return [{"pixel_values": torch.randn(3, 16, 16, generator=draw)} for draw in draws]


@dataclass(frozen=True)
class Done:
    """What one process made: its weights, the units it kept, the rows it saw itself, how many groups it refitted."""

    weights: dict[str, Tensor]
    kept: dict[str, Tensor]
    rows: int
    refitted: int


def compressing(build: Callable[[], nn.Module], config: dict[str, Any], data: Data | None) -> Callable[[], Done]:
    def work() -> Done:
        seen = 0
        add = Collector.add

        def counting(self: Collector, *args: Any) -> None:
            nonlocal seen
            seen += len(args[0].features)
            add(self, *args)

        torch.manual_seed(0)
        compressor = GrailCompressor(build().eval(), config)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Collector, "add", counting)
            compressor.compress(data)
        weights = {name: value.clone() for name, value in compressor.model.state_dict().items()}
        kept = {name: item.reduction.assignment for name, item in (compressor.plan or {}).items()}
        refitted = sum(item.refitted for item in (compressor.plan or {}).values())
        return Done(weights, kept, seen, refitted)

    return work


def check_alike(one: Done, others: Sequence[Done]) -> None:
    for other in others:
        assert isinstance(other, Done), other
        assert all(torch.equal(units, other.kept[name]) for name, units in one.kept.items())
        for name, weight in one.weights.items():
            torch.testing.assert_close(other.weights[name], weight, atol=NEAR, rtol=NEAR)


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], Data | None]] = {
    "refit": (tiny_llama, {"sparsity": 0.3, "batch_size": 2, "refit": "producers"}, ids(40)),
    "gradients": (tiny_llama, {"ffn_sparsity": 0.3, "batch_size": 2, "selector": "fisher"}, ids(11)),
    "rehearsals": (tiny_llama, {"sparsity": 0.4, "batch_size": 1, "drop_layers": True}, ids(11)),
    "labels drawn": (tiny_vit, {"sparsity": 0.3, "batch_size": 2}, images(9)),
    "self": (
        tiny_llama,
        {"sparsity": 0.3, "dataset": {"self:loops=restart": 1}, "num_samples": 5, "seqlen": 80, "batch_size": 2},
        None,
    ),
}


def test_one_two_and_three_with_an_uneven_split(in_processes: Run) -> None:
    work = compressing(tiny_llama, {"sparsity": 0.3, "batch_size": 2}, ids(11))
    alone = work()
    for count in (2, 3):
        found = in_processes(count, work)
        check_alike(alone, found)
        assert sum(each.rows for each in found) == alone.rows  # nobody saw a row twice
        assert min(each.rows for each in found) > 0
        assert max(each.rows for each in found) < alone.rows


def test_fewer_rows_than_processes(in_processes: Run) -> None:
    work = compressing(tiny_llama, {"sparsity": 0.3}, ids(2))
    found = in_processes(3, work)
    check_alike(work(), found)
    assert [each.rows > 0 for each in found] == [True, False, False]


@pytest.mark.parametrize("case", CASES)
def test_what_looks_at_rows(case: str, in_processes: Run) -> None:
    work = compressing(*CASES[case])
    alone = work()
    check_alike(alone, in_processes(2, work))
    assert (alone.refitted > 0) == (case == "refit")


def test_weights_on_disk(tmp_path: Path, in_processes: Run) -> None:
    torch.manual_seed(0)
    tiny_llama().save_pretrained(tmp_path / "dense")

    def work(low_memory: bool = True) -> str | list[Tensor]:
        config = {"sparsity": 0.3, "batch_size": 2, "allocation": "uniform", "low_memory": low_memory}
        compressor = GrailCompressor.from_pretrained(tmp_path / "dense", config)
        folder = tmp_path / ("together" if low_memory else "alone")
        compressor.compress(ids(7), folder, progress=None)
        return [item.reduction.assignment for item in (compressor.plan or {}).values()]

    alone = work(low_memory=False)
    for found in in_processes(2, work):
        assert not isinstance(found, str), found
        assert all(torch.equal(one, other) for one, other in zip(alone, found, strict=True))
    one, other = (GrailCompressor.from_pretrained(tmp_path / name, {"allow_recompress": True}).model.state_dict()
                  for name in ("alone", "together"))  # fmt: skip
    assert all(torch.allclose(other[name], value, atol=NEAR) for name, value in one.items())


def test_the_first_writes_and_the_others_follow(tmp_path: Path, in_processes: Run) -> None:
    def work() -> tuple[int, bool]:
        torch.manual_seed(0)
        compressor = GrailCompressor(tiny_llama().eval(), {"sparsity": 0.3, "allocation": "uniform"})
        compressor.compress(ids(6), tmp_path / "small", eval_dataset=ids(3))
        return len(compressor.report.evaluation), (tmp_path / "small").is_dir()

    assert in_processes(2, work) == [(1, True), (0, True)]
    assert Report.load(tmp_path / "small").calibration is not None
    assert [path.name for path in tmp_path.iterdir()] == ["small"]  # and no state is left


def test_one_that_fails_or_dies_in_the_middle_stops_all(in_processes: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FitRun.run_

    def ending(self: FitRun) -> Any:
        if os.environ.get("RANK") == "1":
            if how == "dies":
                os._exit(9)
            raise DataError("the disk is gone")
        return run(self)

    monkeypatch.setattr(FitRun, "run_", ending)
    work = compressing(tiny_llama, {"sparsity": 0.3, "allocation": "uniform"}, ids(6))
    how = "fails"
    first, second = in_processes(2, work)
    assert second == "DataError: the disk is gone"
    assert first.startswith("ProcessError: Process 1 of 2 failed")
    assert "the disk is gone" in first
    how = "dies"
    first, second = in_processes(2, work)
    assert second is None
    assert "is gone, or did not answer" in first


def test_a_decision_on_the_rows_of_one_process_is_refused(in_processes: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Collector, "_add_others", lambda self: None)
    work = compressing(tiny_llama, {"sparsity": 0.3, "allocation": "uniform", "batch_size": 2}, ids(6))
    for found in in_processes(2, work):
        assert "came to different results for block model.layers.0" in found
    monkeypatch.setattr(GradientCurves, "scaled", lambda self, visit, thinned, found: (thinned.errors, _own(visit)))
    work = compressing(tiny_llama, {"sparsity": 0.3, "batch_size": 2}, ids(6))
    for found in in_processes(2, work):
        assert "came to different results for the signal 'gradient-curves'" in found


def _own(visit: Any) -> float:
    return float(sum(hidden.abs().sum() for hidden in visit.inputs))


@pytest.mark.parametrize(
    ("config", "options", "told"),
    [
        ({"preset": "wandapp"}, {}, "trains every block on one sample after the other"),
        ({}, {"resume": True, "save_directory": "small"}, "goes on in one process only"),
    ],
)
def test_what_cannot_be_shared_is_refused_by_name(
    config: dict[str, Any], options: dict[str, Any], told: str, tmp_path: Path, in_processes: Run
) -> None:
    def work() -> None:
        os.chdir(tmp_path)
        GrailCompressor(tiny_llama().eval(), {"sparsity": 0.3, **config}).compress(ids(6), **options)

    for found in in_processes(2, work):
        assert found.startswith("ConfigError: ")
        assert told in found


def test_other_requests_and_other_data_are_told_apart(in_processes: Run) -> None:
    def asked() -> None:
        sparsity = 0.3 if os.environ["RANK"] == "0" else 0.4
        GrailCompressor(tiny_llama().eval(), {"sparsity": sparsity}).compress(ids(6))

    def read() -> None:
        GrailCompressor(tiny_llama().eval(), {"sparsity": 0.3}).compress(ids(6 + int(os.environ["RANK"])))

    for found in in_processes(2, asked):
        assert "Process 0 has sparsity = 0.3 and process 1 has 0.4" in found
    for found in in_processes(2, read):
        assert "have read different calibration data" in found


def test_own_batches_alone_make_no_portion() -> None:
    assert Portion.of([]).ranks.count == 1
