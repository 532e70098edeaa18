"""Report: a value with JSON both ways."""

from __future__ import annotations

import dataclasses
import json

import pytest

from optimum_grail.errors import CheckpointError
from optimum_grail.report import environment
from optimum_grail.report.environment import hardware, peak_memory, versions
from optimum_grail.report.report import REPORT_FILE, GroupRow, Report


def test_json_both_ways(report):
    assert Report.from_json(report.to_json()) == report
    assert Report.from_dict(report.to_dict()) == report


def test_json_is_strict_and_holds_what_was_achieved(report):
    values = json.loads(report.to_json(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert values["achieved"] == {"blocks": 0.5, "model": 0.4, "units": {"heads": 0.0, "mlp": 0.625}}
    assert values["evaluation"][0]["compressed"] == "inf"


def test_file(report, tmp_path):
    assert report.save(tmp_path) == tmp_path / REPORT_FILE
    assert Report.load(tmp_path) == report


def test_least_report():
    report = Report(
        model="m",
        parameters_before=0,
        parameters_after=0,
        block_parameters_before=0,
        block_parameters_after=0,
        bytes_before=0,
        bytes_after=0,
    )
    assert Report.from_json(report.to_json()) == report
    assert report.achieved == report.achieved_model == 0
    assert report.calibration is None and report.evaluation == ()


def test_rows_take_what_they_know(report):
    row = report.groups[1]
    assert (row.plain_error, row.held_error, row.tau, row.plain_held_error) == (0.3, 0.15, 0.75, None)
    assert not row.gated and report.groups[2].gated
    assert GroupRow.of("g", "mlp", 4, 2, {"nothing": 1}) == GroupRow("g", "mlp", 4, 2)


def test_groups_left_whole_are_named(report):
    assert report.whole == ("layers.0.heads",)


def test_it_is_a_value(report):
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.model = "x"
    more = report.evaluated({"metric": "accuracy", "dense": 1.0, "compressed": 0.5})
    assert (len(report.evaluation), len(more.evaluation)) == (1, 2)


def test_keys_of_later_versions_survive(report):
    values = report.to_dict() | {"energy": {"joules": 3}}
    again = Report.from_dict(values)
    assert again.extra == {"energy": {"joules": 3}}
    assert again.to_dict() == values


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"model": "m"}', '{"groups": [{"name": "g"}]}', '{"groups": 3}', '{"calibration": {"a": 1}}'],
)
def test_damaged_reports_are_refused(text):
    with pytest.raises(CheckpointError):
        Report.from_json(text)


def test_missing_and_unreadable_file(tmp_path):
    with pytest.raises(CheckpointError, match="grail_report"):
        Report.load(tmp_path)
    (tmp_path / REPORT_FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="grail_report"):
        Report.load(tmp_path)


def test_environment():
    assert {"python", "torch", "transformers"} <= set(versions())
    found = hardware("cpu")
    assert found["cores"] >= 1 and found["device"] == "cpu" and found["processor"]
    assert json.dumps(found)
    assert peak_memory() is None or peak_memory() > 10**6


def test_memory_that_is_free(tmp_path, monkeypatch):
    assert environment.available_memory() > 10**6
    for name, text in (("max", "1000\n"), ("current", "700\n"), ("stat", "anon 1\ninactive_file 100\nslab 1\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert environment._free_in_container(tmp_path) == 400, "files that can be dropped count as free"
    (tmp_path / "memory.max").write_text("max\n")
    assert environment._free_in_container(tmp_path) is None
    monkeypatch.setattr(environment, "_free_in_container", lambda: 400)
    assert environment.available_memory() == 400
