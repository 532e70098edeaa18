"""Models in turns: what is told of them, with times that are known."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from optimum_grail.evaluation.speed import speed_test
from optimum_grail.evaluation.speed.speed_test import SpeedTest, names_of
from optimum_grail.report.progress import Silent

FACTS = {"class": "C", "parameters": 4, "bytes": 8, "dtype": "float32", "device": "cpu", "device_name": None}


@dataclass
class Scripted:
    """Takes as long as it is told, on a machine that gets slower with every turn of anybody."""

    log: list[str]
    name: str
    seconds: float
    dtype: str = "float32"
    asked: list[tuple[str, int]] = field(default_factory=list)

    def ask(self, method, **arguments):
        if method == "facts":
            return {**FACTS, "dtype": self.dtype, "threads": 1, "kv_cache_bytes_per_token": 3.0}
        if method == "load":
            return {"seconds": self.seconds, "peak_memory": None}
        if method == "peak":
            return {"peak_memory": 7}
        self.log.append(self.name)
        passes = arguments["passes"]
        self.asked.append((method, passes))
        slow = 1 + 0.01 * len(self.log)
        return {"prefill": [self.seconds * slow] * passes, "decode": [2 * self.seconds * slow] * passes}


@pytest.fixture
def prepared(folders):
    return SpeedTest([folders["llama"]] * 2, (4,), prompt_tokens=10, new_tokens=6, repeats=6).prepare()


def test_turns_alternate_and_a_machine_that_slows_down_favours_nobody(prepared):
    log = []
    found = prepared.measure([Scripted(log, "a", 0.02), Scripted(log, "b", 0.01)], Silent())
    assert "".join(log) == "ab" * 2 + "abba" * 3
    load, prefill, decode = found["rows"][1::2]
    assert (load["part"], prefill["part"], decode["part"]) == ("load", "prefill", "decode")
    assert 1.9 < prefill["speedup"]["low"] <= 2.0 <= prefill["speedup"]["high"] < 2.1
    assert load["speedup"]["median"] == 2.0
    assert prefill["per_second"] == pytest.approx(4 * 10 / 0.01, rel=0.2)
    assert decode["per_second"] == pytest.approx(4 * 5 / 0.02, rel=0.2)
    assert prefill["ideal"] == 1.0 and prefill["realised"] is None and not prefill["within_noise"]
    assert found["rows"][2]["within_noise"], "of the first model with itself"
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["models"][1]["name"] == "llama (2)" and found["models"][1]["load_peak_memory"] is None


def test_quick_models_do_several_passes_a_turn_all_alike(prepared):
    log = []
    quick, slow = Scripted(log, "a", 0.001), Scripted(log, "b", 0.1)
    found = prepared.measure([slow, quick], Silent())
    assert quick.asked == slow.asked and {passes for _, passes in quick.asked[2:]} == {speed_test.PASSES}
    assert found["rows"][-1]["passes_per_turn"] == speed_test.PASSES
    assert found["rows"][2]["per_second"] == pytest.approx(4 * 10 / 0.1, rel=0.2), "a pass counts as one"


def test_the_ideal_is_the_ratio_of_operations(prepared):
    log = []
    first = dict(prepared.flops[0])
    prepared.flops[1].update({place: flops / 2 for place, flops in first.items()})
    found = prepared.measure([Scripted(log, "a", 0.3), Scripted(log, "b", 0.2)], Silent())
    row = found["rows"][3]
    assert row["ideal"] == 2.0
    assert row["realised"] == pytest.approx(2 / 3, abs=0.05), "a third of the time saved, for half of the operations"


def test_what_makes_it_less_than_it_seems_is_noted(folders, monkeypatch):
    monkeypatch.setattr(speed_test.Workload, "flops", lambda *args: 1 / 0)
    prepared = SpeedTest([folders["llama"]] * 2, (1,), prompt_tokens=10, new_tokens=6, repeats=5).prepare()
    found = prepared.measure([Scripted([], "a", 0.3), Scripted([], "b", 0.3, "bfloat16")], Silent())
    counted, _, types, few = found["notes"]
    assert "operations could not be counted (ZeroDivisionError" in counted
    assert "llama in float32, llama (2) in bfloat16" in types
    assert "Intervals of 5 repeats hold with less than 95 %" in few
    assert found["rows"][-1]["ideal"] is None and found["rows"][-1]["realised"] is None


def test_real_models_in_this_process(folders, here, monkeypatch):
    monkeypatch.setattr(speed_test, "TURN", 0.0)
    test = SpeedTest([folders["bert"]] * 2, (1, 2), repeats=2).prepare()
    found = test.measure([here(path, test) for path in test.test.models], Silent())
    assert [(row["part"], row["batch"]) for row in found["rows"]] == [("load", None)] * 2 + [("forward", 1)] * 2 + [
        ("forward", 2)
    ] * 2
    assert found["settings"]["repeats"] == 2 and found["settings"]["device"] is None
    assert found["kind"] == "encoders of text" and found["versions"]["torch"] and found["hardware"]["cores"]
    assert all(row["per_second"] > 0 for row in found["rows"])


def test_names_are_short_where_that_is_enough():
    assert names_of(["a/x", "b/y/"]) == ["x", "y"]
    assert names_of(["a/x", "b/x", "c"]) == ["a/x", "b/x", "c"]
    assert names_of(["a/x", "a/x", "b/y"]) == ["x", "x (2)", "y"]
