"""Sweeps: many methods and sizes from one calibration, resumable, with nothing measured twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import CheckpointError, ConfigError, OutputError, UnknownNameError
from optimum_grail.pipeline import stages
from optimum_grail.pipeline.folders import Folders
from optimum_grail.report.curve import damage
from optimum_grail.report.report import Report
from optimum_grail.sweep import FILE, Cell, Sweep, cells

FAST: dict[str, Any] = {"num_samples": 10, "seqlen": 32}
DRAW = torch.Generator().manual_seed(0)
TEXTS = [{"input_ids": torch.randint(3, 90, (16,), generator=DRAW)} for _ in range(20)]


def weights_left(model: nn.Module) -> dict[str, float]:
    """A stand-in for a metric: the norm of what is left."""
    return {"norm": float(sum(parameter.detach().square().sum() for parameter in model.parameters()))}


def tiny_sweep(**settings: Any) -> Sweep:
    values = {"measure": weights_left, "headline": "norm", "higher_is_better": True, "dataset": TEXTS}
    return Sweep(tiny_llama().eval(), **{**values, **settings})


@pytest.fixture(name="counted")
def _counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often surveys, gradients and readings of the data happen."""
    counts = {"surveys": 0, "gradients": 0, "readings": 0}

    def counting(what: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            counts[what] += 1
            return real(*args, **kwargs)

        return wrapped

    monkeypatch.setattr(stages.Survey, "run", counting("surveys", stages.Survey.run))
    monkeypatch.setattr(stages, "mask_gradients", counting("gradients", stages.mask_gradients))
    monkeypatch.setattr(stages, "load_calibration", counting("readings", stages.load_calibration))
    return counts


def test_what_does_not_depend_on_the_size_is_measured_once(counted: dict[str, int], tmp_path: Path) -> None:
    planned = cells(["grail-plus", "fisher", "magnitude"], [0.3, 0.5], {})
    result = tiny_sweep(stats_cache=tmp_path / "stats").run(planned)
    assert counted == {"surveys": 2, "gradients": 1, "readings": 1}, "curves for one method, information for another"
    assert [(row["method"], row["size"]) for row in result["rows"]] == [(cell.method, cell.size) for cell in planned]
    for row in result["rows"]:
        assert row["parameters"] < result["dense"]["parameters"] and row["result"]["norm"] > 0
        assert row["sparsity"] == pytest.approx(float(row["size"]), abs=0.15) and damage(result, row) < 1
    tiny_sweep(stats_cache=tmp_path / "stats").run(planned)
    assert counted == {"surveys": 2, "gradients": 1, "readings": 2}, "the folder keeps them for the next process"


def test_a_row_is_what_a_run_by_itself_gives() -> None:
    config = {"preset": "grail-plus", "sparsity": 0.5}
    (row,) = tiny_sweep().run(cells(["grail-plus"], [0.5], {}))["rows"]
    compressor = GrailCompressor(tiny_llama(), config)
    compressor.compress(TEXTS)
    assert row["result"] == weights_left(compressor.model)
    assert row["parameters"] == compressor.report.parameters_after


def test_an_interrupted_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    planned = cells(["magnitude"], [0.3, 0.5], {})
    whole = tiny_sweep().run(planned)
    calls = []

    def failing(model: nn.Module) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return weights_left(model)

    with pytest.raises(KeyboardInterrupt):
        tiny_sweep(measure=failing).run(planned, tmp_path)
    assert len(json.loads((tmp_path / FILE).read_text())["rows"]) == 1
    resumed = tiny_sweep(measure=failing).run(planned, tmp_path)
    assert len(calls) == 4, "neither the dense model nor the first row is measured again"
    assert [row["result"] for row in resumed["rows"]] == [row["result"] for row in whole["rows"]]
    assert json.loads((tmp_path / FILE).read_text())["rows"] == json.loads(json.dumps(resumed["rows"]))
    tiny_sweep(measure=failing).run(cells(["magnitude"], [0.3, 0.5], {"offload_streams": True}), tmp_path)
    assert len(calls) == 4, "where streams are kept changes no row"


def datasets_of_one_description() -> list[Dataset]:
    """Two data sets that differ in their rows only."""
    return [
        Dataset.from_list([{"input_ids": row["input_ids"].add(shift).tolist()} for row in TEXTS]) for shift in (0, 1)
    ]


def test_data_sets_of_one_description_are_not_mixed_up(tmp_path: Path) -> None:
    planned = [Cell("wanda", "0.5", {"preset": "wanda", "dataset": rows}) for rows in datasets_of_one_description()]
    result = tiny_sweep(dataset=None).run(planned, tmp_path)
    for row, cell in zip(result["rows"], planned, strict=True):
        compressor = GrailCompressor(tiny_llama(), cell.config)
        compressor.compress()
        assert compressor.report.calibration is not None
        assert row["calibration"]["sha256"] == compressor.report.calibration.sha256
        assert row["result"] == weights_left(compressor.model)
    assert result["rows"][0]["result"] != result["rows"][1]["result"]


def test_a_sweep_does_not_go_on_with_rows_of_other_data(counted: dict[str, int], tmp_path: Path) -> None:
    planned, (first, second) = cells(["wanda"], [0.5], {}), datasets_of_one_description()
    (row,) = tiny_sweep(dataset=first).run(planned, tmp_path)["rows"]
    again = tiny_sweep(dataset=second).run(planned, tmp_path)["rows"]
    assert counted["readings"] == 2 and again[0] == row and again[1]["calibration"] != row["calibration"]
    tiny_sweep(dataset=first).run(planned, tmp_path)
    assert counted["readings"] == 2, "both are kept"
    older = json.loads((tmp_path / FILE).read_text())
    del older["rows"][1], older["rows"][0]["data"]
    (tmp_path / FILE).write_text(json.dumps(older))
    tiny_sweep(dataset=first).run(planned, tmp_path)
    assert counted["readings"] == 2, "rows of older files, which do not name their data, still count"


def test_a_sweep_gives_the_model_its_modes_back() -> None:
    sweep = tiny_sweep(measure=lambda model: {"norm": float(model.training)})
    sweep.model.train()
    sweep.model.model.layers[0].eval()
    before = [module.training for module in sweep.model.modules()]
    result = sweep.run(cells(["magnitude"], [0.5], {}))
    assert result["dense"]["result"] == result["rows"][0]["result"] == {"norm": 0.0}
    assert [module.training for module in sweep.model.modules()] == before


def test_another_sweep_is_not_overwritten(tmp_path: Path) -> None:
    planned = cells(["magnitude"], [0.5], {})
    tiny_sweep().run(planned, tmp_path)
    with pytest.raises(OutputError, match=r"another model, metric or evaluation set.*--overwrite"):
        tiny_sweep(headline="other", measure=lambda model: {"other": 1.0}).run(planned, tmp_path)
    (tmp_path / FILE).write_text("[]")
    with pytest.raises(OutputError, match="no sweep"):
        tiny_sweep().run(planned, tmp_path)
    tiny_sweep().run(planned, tmp_path, overwrite=True)


def test_every_size_is_saved_and_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    planned, place = cells(["magnitude"], [0.3, 0.5], {}), Folders(tmp_path, "tiny")
    measured = []

    def counted(model: nn.Module) -> dict[str, float]:
        measured.append(model)
        return weights_left(model)

    first = tiny_sweep().run(planned[:1], tmp_path)
    assert "folder" not in first["rows"][0]
    found = tiny_sweep(measure=counted).run(planned, tmp_path, save=place)
    assert [row["folder"] for row in found["rows"]] == ["magnitude-0.3", "magnitude-0.5"] and len(measured) == 2
    for row in found["rows"]:
        small = load_model(tmp_path / row["folder"])
        assert sum(item.numel() for item in small.parameters()) == row["parameters"]
        report = Report.load(tmp_path / row["folder"])
        assert (report.parameters_after, report.asked) == (row["parameters"], {"sparsity": float(row["size"])})
    assert tiny_sweep(measure=counted).run(planned, tmp_path, save=place)["rows"] == found["rows"]
    assert len(measured) == 2, "nothing is compressed again"
    shutil.rmtree(tmp_path / "magnitude-0.3")
    tiny_sweep(measure=counted).run(planned, tmp_path, save=place)
    assert len(measured) == 3 and place.has("magnitude", "0.3")


def test_folders_are_checked_before_any_work(tmp_path: Path, counted: dict[str, int]) -> None:
    place = Folders(tmp_path, "tiny")
    twice = [Cell("a/b", "0.5", {"sparsity": 0.5}), Cell("a b", "0.5", {"sparsity": 0.3})]
    with pytest.raises(ConfigError, match=r"both be saved as 'a-b-0\.5'"):
        tiny_sweep().run(twice, tmp_path, save=place)
    (tmp_path / "grail-plus-0.5").mkdir()
    (tmp_path / "grail-plus-0.5" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"grail-plus-0\.5"):
        tiny_sweep().run(cells(["grail-plus"], [0.5], {}), tmp_path, save=place)
    assert counted["readings"] == 0 and not (tmp_path / FILE).exists()


def test_bad_requests_are_told_before_any_work() -> None:
    with pytest.raises(ConfigError, match="sparsity"):
        cells(["magnitude"], [1.5], {})
    with pytest.raises(UnknownNameError, match="Did you mean 'magnitude'"):
        cells(["magnitud"], [0.5], {})
    compressed = GrailCompressor(tiny_llama(), {"preset": "magnitude", "sparsity": 0.5})
    compressed.compress()
    with pytest.raises(CheckpointError, match="compressed already"):
        Sweep(compressed.model)


def test_the_command_writes_a_file_a_figure_and_a_table(
    cli: Callable[..., int], capsys: Any, embedded_llama: Path, prose: Any, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    flags = ["--dataset", prose.calibration, "--eval-dataset", prose.held, "--eval-samples", 20]
    flags += ["--num-samples", 40, "--seqlen", 128, "--sparsity", 0.3, 0.5, "--presets", "magnitude", "magnitude+grail"]
    flags += ["--save"]
    assert cli("grail", "sweep", "-m", embedded_llama, "-o", out, *flags, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((out / FILE).read_text()) and (out / "sweep.png").stat().st_size > 1000
    values = {(row["method"], row["size"]): row["result"]["perplexity"] for row in found["rows"]}
    assert set(values) == {(m, s) for m in ("magnitude", "magnitude+grail") for s in ("0.3", "0.5")}
    dense = found["dense"]["result"]["perplexity"]
    assert dense < values["magnitude+grail", "0.3"] < values["magnitude", "0.3"] < values["magnitude", "0.5"]
    model, tokenizer = (auto.from_pretrained(embedded_llama) for auto in (AutoModelForCausalLM, AutoTokenizer))
    compressor = GrailCompressor(model, {"preset": "magnitude", "sparsity": 0.3}, tokenizer=tokenizer)
    compressor.compress()
    assert compressor.report.parameters_after == found["rows"][0]["parameters"]
    for row in found["rows"]:
        (told,) = Report.load(out / row["folder"]).evaluation
        assert (told["dense"], told["compressed"]) == (dense, row["result"]["perplexity"])
        assert "perplexity" in (out / row["folder"] / "README.md").read_text()


def test_weights_on_disk_are_refused() -> None:
    from accelerate import cpu_offload

    model = tiny_llama()
    cpu_offload(model, execution_device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="model in memory"):
        Sweep(model)
