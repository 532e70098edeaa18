"""A new allocation with a new measurement: two classes, no edit of the package; and needs that nothing meets."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch

from optimum_grail import registry
from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.compressor import GrailCompressor
from optimum_grail.config.building import REGISTRIES, build_method
from optimum_grail.core.budget import Budget, WidthClass, minimise
from optimum_grail.core.contracts import Allocation, Selector
from optimum_grail.core.problem import GroupProblem, Selection
from optimum_grail.errors import UnknownNameError
from optimum_grail.selectors import SELECTORS
from optimum_grail.signals import SIGNALS, Seen, Signal, Tensors, Visit
from optimum_grail.streams.probe import Wanted
from optimum_grail.sweep import Sweep, cells

DRAW = torch.Generator().manual_seed(0)
TEXTS = [{"input_ids": torch.randint(3, 90, (16,), generator=DRAW)} for _ in range(20)]


@dataclass(frozen=True)
class Loudness(Signal):
    """Mean size of the features that enter a consumer, and what was seen of them."""

    wanted: ClassVar[Wanted | None] = Wanted(features=True)
    calls: ClassVar[list[str]] = []

    def batch(self, seen: Seen) -> Tensors:
        return {
            name: torch.tensor([float(record.features.abs().sum()), record.features.numel()], dtype=torch.float64)
            for name, record in seen.records.items()
            if record.features is not None
        }

    def block(self, visit: Visit, sums: Tensors, found: Tensors) -> Tensors:
        self.calls.append(visit.path)
        return {group.name: sums[group.name][0] / sums[group.name][1] for group in visit.groups}


@dataclass(frozen=True)
class Quietest(Allocation):
    """Groups of quiet features lose most."""

    needs = frozenset({"loudness"})

    def __call__(self, classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
        found = []
        for item in classes:
            gone = item.units - torch.tensor(item.widths, dtype=torch.float64)
            found.append(replace(item, damage=item.signal("loudness") ** 4 * (gone / item.units).square() * item.whole))
        return minimise(found, budget)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    """What a test adds is gone after it."""
    Loudness.calls.clear()
    yield
    for each in (SIGNALS, ALLOCATIONS, SELECTORS):
        for name in ("loudness", "quietest", "quiet", "misspelt", "curious"):
            each._entries.pop(name, None)


def compressed(allocation: str) -> tuple[GrailCompressor, dict[str, int]]:
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(10)
    compressor = GrailCompressor(model, {"allocation": allocation, "sparsity": 0.3, "standalone": False})
    compressor.compress(TEXTS)
    return compressor, {name: item.reduction.slots for name, item in (compressor.plan or {}).items()}


def test_a_new_allocation_reads_a_new_signal() -> None:
    SIGNALS.add("loudness", Loudness)
    ALLOCATIONS.add("quietest", Quietest)
    compressor, kept = compressed("quietest")
    assert Loudness.calls == [f"model.layers.{index}" for index in range(3)], "one walk, every block once"
    ffn = [kept.get(f"model.layers.{index}.mlp", 48) for index in range(3)]
    assert ffn[1] > max(ffn[0], ffn[2]), "the loud layer keeps more"
    assert 0.25 < compressor.report.achieved < 0.35


def test_another_distribution_brings_both(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = ModuleType("a_module_of_theirs")
    theirs.__dict__.update(Loudness=Loudness, Quietest=Quietest)
    monkeypatch.setitem(sys.modules, theirs.__name__, theirs)
    points = [
        EntryPoint("loudness", f"{theirs.__name__}:Loudness", "optimum_grail.signals"),
        EntryPoint("quiet", f"{theirs.__name__}:Quietest", "optimum_grail.allocations"),
    ]
    monkeypatch.setattr(registry, "installed_points", lambda group: EntryPoints(points).select(group=group))
    compressed("quiet")
    assert Loudness.calls


def test_what_is_kept_of_a_signal_is_that_of_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SIGNALS.add("loudness", Loudness)
    ALLOCATIONS.add("quietest", Quietest)
    planned = cells(["grail"], [0.3, 0.5], {"allocation": "quietest", "standalone": False})

    def run() -> int:
        Loudness.calls.clear()
        Sweep(tiny_llama().eval(), dataset=TEXTS, stats_cache=tmp_path).run(planned)
        return len(Loudness.calls)

    assert run() == 3, "measured once for both sizes"
    assert run() == 0, "and not again by the next process"
    monkeypatch.setattr(Loudness, "version", 2)
    assert run() == 3


@dataclass(frozen=True)
class Misspelt(Allocation):
    """Asks for what nobody measures."""

    needs = frozenset({"fluctuations"})

    def __call__(self, classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
        raise NotImplementedError


@dataclass(frozen=True)
class Curious(Selector):
    """Asks the fit for what only the survey measures."""

    needs: ClassVar[frozenset[str]] = frozenset({"gram", "curves"})

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        raise NotImplementedError


def test_an_unknown_need_is_refused_when_the_method_is_built() -> None:
    ALLOCATIONS.add("misspelt", Misspelt)
    with pytest.raises(UnknownNameError, match=r"'fluctuations'\. Did you mean 'fluctuation'.*allocation 'misspelt'"):
        GrailCompressor(tiny_llama(), {"allocation": "misspelt"})
    SELECTORS.add("curious", Curious)
    with pytest.raises(UnknownNameError, match=r"need of selectors 'curves'.*gram.*selector 'curious' asks"):
        build_method("selector", "curious", {})


@pytest.mark.parametrize("part", REGISTRIES)
def test_every_method_asks_for_what_there_is(part: str) -> None:
    found: dict[str, Any] = {name: build_method(part, name, {}) for name in REGISTRIES[part].names()}
    assert len(found) > 1
