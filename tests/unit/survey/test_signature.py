"""Signatures tell declared values apart by what they do, in this process and the next."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.core.groups import StreamFunction
from optimum_grail.core.spec import ArchitectureSpec, Mlp, never
from optimum_grail.signals import SIGNALS, bent_curves
from optimum_grail.signals.bent_curves import BentCurves
from optimum_grail.survey.signature import signature

FACTOR = 2


def scaled(value: int) -> int:
    return FACTOR * value


def through_a_helper(value: int) -> int:
    return scaled(value) + 1


def closed_over(number: int) -> Callable[[int], int]:
    return lambda value: value + number


def spec(stream: Any = "@block", **changes: Any) -> ArchitectureSpec:
    return ArchitectureSpec(("net",), ("blocks.*",), (Mlp(("up",), "down", stream),), **changes)


@dataclass(frozen=True)
class Held:
    value: Any


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value


def test_equal_declarations_have_one_signature() -> None:
    assert signature(spec()) == signature(spec())
    assert signature(closed_over(1)) == signature(closed_over(1))
    assert signature({"a": {3, 1, 2}}) == signature({"a": {2, 3, 1}})
    assert signature(Held(Plain([1, None]))) == signature(Held(Plain([1, None])))


def test_every_map_has_its_own() -> None:
    specs = ARCHITECTURES.specs()
    assert len({signature(each) for each in specs}) == len(specs)


@pytest.mark.parametrize(
    "other",
    [
        spec("down:output"),
        spec(StreamFunction(lambda block, entering, seen: entering)),
        spec(StreamFunction(lambda block, entering, seen: 2 * entering)),
        spec(mask="attention_mask"),
        spec(depth_field="num_hidden_layers"),
        replace(spec(), groups=(Mlp(("up",), "down", "@block", accepts=never),)),
    ],
    ids=["path", "function", "another function", "mask", "depth", "accepts"],
)
def test_another_map_has_another_signature(other: ArchitectureSpec) -> None:
    assert signature(other) not in {signature(spec()), signature(spec(StreamFunction(lambda a, b, c: b + 1)))}


def test_functions_count_by_what_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (lambda x: x + 1), (lambda x: x + 2)
    assert signature(one) != signature(other)
    assert signature(closed_over(1)) != signature(closed_over(2))
    assert signature(functools.partial(scaled, value=1)) != signature(functools.partial(scaled, value=2))
    before = signature(through_a_helper)
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 3)
    assert signature(through_a_helper) != before, "a constant of a helper"


def test_classes_count_by_what_is_written_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Base:
        part = 2

        @property
        def double(self) -> int:
            return 2 * self.part

    class Made(Base):
        @classmethod
        def one(cls) -> Made:
            return cls()

    found = {signature(Made.one())}
    for name, value in (("part", 3), ("double", property(lambda self: self.part))):
        with monkeypatch.context() as patch:
            patch.setattr(Base, name, value)
            found.add(signature(Made.one()))
    monkeypatch.setattr(Made, "one", classmethod(lambda cls: None))
    assert len(found | {signature(Made())}) == 4


def test_signals_are_told_apart_by_their_code(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {signature(signal()) for _, signal in SIGNALS}
    assert len(found) == len(SIGNALS.names())
    before = signature(BentCurves())
    monkeypatch.setattr(bent_curves, "BENDS", (2, 4))
    assert signature(BentCurves()) != before


def test_recursion_ends() -> None:
    def again(value: int) -> int:
        return again(value - 1) if value else 0

    ring: list[Any] = [Held(again)]
    loop = Plain(None)
    loop.value = loop
    assert signature(ring) == signature([Held(again)])
    assert signature(loop) != signature(Plain(None))


def test_values_of_other_libraries_have_signatures_too() -> None:
    values = [torch.float32, torch.ones(2), torch.zeros(2), nn.Linear, len, sys, "x".join, None, 1.5, b"x", {1: 2}]
    assert len({signature(value) for value in values}) == len(values)


def test_the_next_process_finds_the_same() -> None:
    code = (
        "from optimum_grail.architectures import ARCHITECTURES\n"
        "from optimum_grail.survey.signature import signature\n"
        "print(signature(ARCHITECTURES.specs()))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {signature(ARCHITECTURES.specs()) + "\n"}
