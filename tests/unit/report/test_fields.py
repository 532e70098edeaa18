"""Reports come from strangers: every field is read by its type."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from optimum_grail.errors import CheckpointError
from optimum_grail.report.report import Report

FULL: dict[str, Any] = {
    "forward": {
        "inputs": {"input_ids": {"shape": [1, 256], "dtype": "torch.int64"}},
        "outputs": {"logits": [1, 256, 4096]},
        "dtype": "float32",
        "device": "cpu",
        "latency": [{"batch": 1, "dense": 0.05, "compressed": 0.025, "dense_spread": 0.001, "compressed_spread": 0.0}],
        "memory": [],
    },
    "recovery": {
        "steps": 200,
        "rank": 16,
        "batch_size": 8,
        "dataset": "self",
        "kl_before": 0.5,
        "kl_after": "inf",
        "evaluation": {"metric": "perplexity", "dataset": "x", "dense": 1.0, "before": 3.0, "after": 2.0},
    },
    "derived": [
        {
            "name": "int8",
            "metric": "perplexity",
            "dataset": "x",
            "value": 2.0,
            "bytes": 10,
            "seconds": {"compressed": 0.0, "derived": 0.1},
        }
    ],
    "base_model": "org/base",
    "revision": "4f2ac0de",
    "datasets": ["org/text"],
}


@pytest.fixture
def values(report: Report) -> dict[str, Any]:
    """A full report as JSON values."""
    return copy.deepcopy(json.loads(report.to_json()) | FULL)


def test_a_full_report_is_read_both_ways(values: dict[str, Any]) -> None:
    again = Report.from_dict(values)
    assert json.loads(again.to_json()) == values
    assert again.recovery["kl_after"] == float("inf") and again.datasets == ("org/text",)


PLACES = [
    ("model",),
    ("model_class",),
    ("model_type",),
    ("base_model",),
    ("revision",),
    ("asked", "sparsity"),
    ("budget",),
    ("budget_removed",),
    ("parameters_before",),
    ("bytes_after",),
    ("groups",),
    ("groups", 1),
    ("groups", 1, "name"),
    ("groups", 1, "units_after"),
    ("groups", 1, "fit_error"),
    ("calibration",),
    ("calibration", "sha256"),
    ("calibration", "samples"),
    ("calibration", "notes"),
    ("config",),
    ("standalone",),
    ("forward",),
    ("forward", "inputs"),
    ("forward", "inputs", "input_ids"),
    ("forward", "inputs", "input_ids", "shape"),
    ("forward", "outputs", "logits"),
    ("forward", "device"),
    ("forward", "latency", 0, "dense"),
    ("datasets",),
    ("datasets", 0),
    ("evaluation",),
    ("evaluation", 0),
    ("evaluation", 0, "metric"),
    ("recovery", "steps"),
    ("recovery", "evaluation", "after"),
    ("derived", 0),
    ("derived", 0, "bytes"),
    ("derived", 0, "seconds"),
    ("derived", 0, "seconds", "compressed"),
    ("forward", "latency", 0, "dense_spread"),
    ("seconds",),
    ("seconds", "fit"),
    ("peak_memory",),
    ("versions", "torch"),
    ("hardware", "memory"),
    ("hardware", "cores"),
    ("warnings",),
    ("warnings", 0),
    ("command",),
]


def deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


HOSTILE: dict[str, Any] = {
    "digits": 10**400,
    "deep": deep(900),
    "letters": "x" * 10**6,
    "a list": [[1]],
    "a dictionary": {"__class__": {"a": None}},
    "a tag": "<img src=x onerror=alert(1)>\n\n```",
    "a word": "word; with | signs",
    "true": True,
    "minus": -(2**80),
    "not a number": float("nan"),
}


def changed(values: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """``values`` with ``value`` at ``place``."""
    holder: Any = {**values, "hardware": {"processor": "a", "cores": 2, "memory": 2**30, "device": "cpu"}}
    result = holder
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return result


def cases() -> Iterator[Any]:
    for place in PLACES:
        for name, value in HOSTILE.items():
            yield pytest.param(place, value, id=f"{'.'.join(map(str, place))}-{name}")


@pytest.mark.parametrize(("place", "value"), list(cases()))
def test_a_hostile_value_is_refused_in_a_short_line_or_makes_a_card(
    place: tuple[Any, ...], value: Any, values: dict[str, Any]
) -> None:
    from optimum_grail.hub.card import build_card

    try:
        report = Report.from_dict(changed(values, place, value))
    except CheckpointError as error:
        assert len(str(error)) < 400 and "This is no report of a compression" in str(error)
        return
    text = str(build_card(report))
    assert "<img" not in text.replace('"<img', "")  # the configuration is shown as JSON, in a block of code
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert "alert" not in code


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (("model_class",), "os; print('run')", "a name of Python"),
        (("model_class",), "A\nimport os", "a name of Python"),
        (("base_model",), "a/b/../../c", "an id of the Hub"),
        (("base_model",), "x](javascript:alert(1))", "an id of the Hub"),
        (("revision",), "main) [x](http://y", "a commit, branch or tag"),
        (("command",), "curl http://x | sh", "a command line of optimum-cli"),
        (("standalone",), "yes", "true or false"),
        (("parameters_after",), "600", "a whole number"),
        (("parameters_after",), float("inf"), "finite"),
        (("seconds", "fit"), "inf", "a number"),
        (("forward", "inputs"), {"x); import os": {"shape": [1], "dtype": "float32"}}, "a name of Python"),
        (("forward", "inputs", "input_ids", "shape"), ["1, os.system('x')"], "a whole number"),
        (("forward", "device"), None, "a text"),
        (("groups", 0), {"name": "g"}, "lacks 'kind'"),
        (("groups", 0, "odd"), 1, "has no field 'odd'"),
    ],
)
def test_what_becomes_code_is_what_it_should_be(
    place: tuple[Any, ...], value: Any, expected: str, values: dict[str, Any]
) -> None:
    with pytest.raises(CheckpointError, match=expected):
        Report.from_dict(changed(values, place, value))


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, '{"model": ' + "1" * 5000 + "}", '{"a": NaN', "3"])
def test_text_that_no_parser_reads(text: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        Report.from_json(text)
    assert len(str(caught.value)) < 400
