"""``optimum-cli grail compress``: what the command does around the compressor."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from optimum_grail.checkpoints.output import staged_folder
from optimum_grail.config.config import GrailConfig
from optimum_grail.errors import BudgetError


class Recorder:
    """Stands in for the compressor: notes its calls and writes a folder."""

    error: BaseException | None = None
    calls: ClassVar[list] = []

    def __init__(self, report):
        self.report = report

    def compress(self, **kwargs):
        self.calls.append(("compress", kwargs))
        kwargs["progress"].start(1, "fit")
        with staged_folder(kwargs["save_directory"], kwargs["overwrite"]) as folder:
            (folder / "config.json").write_text("{}")
            if self.error is not None:
                raise self.error


@pytest.fixture
def recorder(monkeypatch, report):
    calls: list = []
    monkeypatch.setattr(Recorder, "calls", calls)
    monkeypatch.setattr(Recorder, "error", None)

    class Compressor(Recorder):
        @classmethod
        def from_pretrained(cls, model, config, **kwargs):
            calls.append(("load", model, config.to_diff_dict(), kwargs))
            return cls(report)

    stub = ModuleType("optimum_grail.compressor")
    stub.GrailCompressor = Compressor
    monkeypatch.setitem(sys.modules, "optimum_grail.compressor", stub)
    return calls


def words(tmp_path, *more):
    return ("grail", "compress", "-m", "some/model", "-o", str(tmp_path / "out"), *more)


def test_loads_compresses_reports(recorder, cli, tmp_path, capsys):
    assert (
        cli(*words(tmp_path, "--sparsity", "0.3", "--dtype", "float32", "--eval-dataset", "some/texts", "--no-affine"))
        == 0
    )
    (_, model, config, loading), (_, running) = recorder
    assert model == "some/model"
    assert config == {"quant_method": "grail", "sparsity": 0.3, "affine": False}
    assert (loading.pop("dtype"), loading.pop("device"), loading.pop("base_model")) == ("float32", None, None)
    assert loading == {"trust_remote_code": False, "allow_pickle": False}
    assert running["save_directory"] == tmp_path / "out"
    assert running["eval_dataset"] == "some/texts"
    assert not (running["overwrite"] or running["resume"] or running["include_modeling_code"])
    shown = capsys.readouterr().out
    assert "before and after" in shown and f"Written to {tmp_path / 'out'}" in shown


def test_what_the_card_and_the_folder_get(recorder, cli, tmp_path):
    assert cli(*words(tmp_path, "--base-model", "org/base", "--include-modeling-code")) == 0
    assert recorder[0][3]["base_model"] == "org/base" and recorder[1][1]["include_modeling_code"] is True


def test_resume_reaches_the_compressor(recorder, cli, tmp_path):
    assert cli(*words(tmp_path, "--resume")) == 0
    assert recorder[1][1]["resume"] is True and recorder[1][1]["overwrite"] is False


def test_json(recorder, cli, tmp_path, capsys, report):
    assert cli(*words(tmp_path, "--json")) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"output": str(tmp_path / "out"), "report": json.loads(report.to_json())}
    assert "before and after" in shown.err


def test_file_and_flags(recorder, cli, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"quant_method": "grail", "ffn_sparsity": 0.3, "seed": 7}))
    assert cli(*words(tmp_path, "--config", str(tmp_path / "c.json"), "--seed", "8")) == 0
    assert recorder[0][2] == {"quant_method": "grail", "ffn_sparsity": 0.3, "seed": 8}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--selector", "wandaa"), "Did you mean 'wanda'"),
        (("--compensator", "grail:rigde=1"), "no option 'rigde'"),
        (("--preset", "wanda", "--ridge", "0.1"), "no option 'ridge'"),
        (("--sparsity", "0.5", "--head-sparsity", "0.5"), "contradict"),
        (("--config", "/no/such.json"), "/no/such.json"),
        (("--allocation", "uniform", "--drop-layers"), "balanced, knapsack"),
        (("--allocation", "knapsack:budget=flops", "--budget", "latency"), "contradict each other"),
        (("--target-bytes", "60MB", "--sparsity", "0.5"), "contradict each other"),
        (("--dataset", "./no/such.txt"), "./no/such.txt"),
        (("--eval-dataset", "no-such.txt"), "no-such.txt"),
    ],
)
def test_bad_configurations_end_before_the_model_is_loaded(recorder, cli, tmp_path, capsys, more, message):
    assert cli(*words(tmp_path, *more)) == 2
    assert message in capsys.readouterr().err
    assert recorder == [] and not (tmp_path / "out").exists()


def test_a_runs_folder_repeats_it(recorder, cli, tmp_path, report):
    config = GrailConfig(preset="wanda", target_bytes="60MB", protect=[0], dataset="some/texts").resolved()
    (tmp_path / "card").mkdir()
    told = {**report.to_dict(), "config": config.to_dict()}
    (tmp_path / "card" / "grail_report.json").write_text(json.dumps(told))
    assert cli(*words(tmp_path, "--config", str(tmp_path / "card"), "--seed", "3")) == 0
    assert recorder[0][2] == {**config.to_diff_dict(), "seed": 3}


def test_a_run_on_data_in_memory_asks_for_some(recorder, cli, tmp_path, capsys):
    GrailConfig(dataset=["a", "b"]).save_pretrained(tmp_path / "run")
    assert cli(*words(tmp_path, "--config", str(tmp_path / "run"))) == 2
    assert "data in memory (list of 2 strings). Name some with --dataset." in capsys.readouterr().err
    assert cli(*words(tmp_path, "--config", str(tmp_path / "run"), "--dataset", "some/texts")) == 0


def test_existing_output_is_refused_before_the_model_is_loaded(recorder, cli, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    for name in ("config.json", "grail_report.json"):
        (tmp_path / "out" / name).write_text("old")
    assert cli(*words(tmp_path)) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert recorder == []
    assert cli(*words(tmp_path, "--overwrite")) == 0
    assert (tmp_path / "out" / "config.json").read_text() == "{}"


def test_model_is_never_overwritten(recorder, cli, tmp_path, capsys):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    assert cli("grail", "compress", "-m", str(model), "-o", str(model), "--overwrite") == 2
    assert "the model itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(BudgetError("too much"), 2), (RuntimeError("odd"), 1), (KeyboardInterrupt(), 130)]
)
def test_failures_leave_nothing_behind(recorder, cli, tmp_path, monkeypatch, error, code):
    monkeypatch.setattr(Recorder, "error", error)
    assert cli(*words(tmp_path, "--json")) == code
    assert [path.name for path in Path(tmp_path).iterdir()] == []
