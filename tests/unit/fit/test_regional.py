"""Regional optimisation happens where a selector asks for it, and nowhere else."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.allocations.uniform import Uniform
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.compensators.grail import Grail
from optimum_grail.core.contracts import Selector
from optimum_grail.core.plan import GroupPlan
from optimum_grail.core.problem import GroupProblem, Selection
from optimum_grail.data.batches import make_batches
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.models.matrix import to_matrix
from optimum_grail.models.resolve import resolve
from optimum_grail.models.surgery import apply_
from optimum_grail.report.progress import Silent
from optimum_grail.selectors import SELECTORS
from optimum_grail.selectors.magnitude import Magnitude
from optimum_grail.selectors.wandapp import Wandapp


@dataclasses.dataclass(frozen=True)
class Rounds(Selector):
    """A selector with an option called ``rounds`` that has nothing to do with training."""

    rounds: int = 7

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        return Magnitude()(problem, keep)


def untouched(selector: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether every consumer still holds the readout that was applied, at the end of a fit of a tiny LLaMA."""
    applied: dict[str, Tensor] = {}

    def spy(model: nn.Module, plan: Mapping[str, GroupPlan]) -> None:
        applied.update({item.group.consumer.module: item.readout.weight.clone() for item in plan.values()})
        apply_(model, plan)

    monkeypatch.setattr("optimum_grail.fit.fit.apply_", spy)
    model = tiny_llama()
    draw = torch.Generator().manual_seed(0)
    samples: list[dict[str, Tensor]] = [{"input_ids": torch.randint(3, 90, (12,), generator=draw)} for _ in range(8)]
    layout = resolve(model)
    widths = {group.name: max(1, group.units // 2) for group in layout.groups}
    methods = Methods(selector, Grail(), Uniform(), "sequential")
    gradients = {group.name: torch.rand(8, group.units, dtype=torch.float64) for group in layout.groups}
    batches = make_batches(samples, batch_size=4)
    FitRun(model, layout, methods, widths, batches, 0, Silent(), mask_gradients=gradients).run_()
    assert len(applied) == len(layout.groups)
    found = {path: to_matrix(model.get_submodule(path), dtype=torch.float32) for path in applied}
    return all(torch.equal(found[path], weight.float()) for path, weight in applied.items())


OF_EXPERTS = ("reap", "frequency")
"""They choose whole experts of a mixture, by how the router does."""


@pytest.mark.parametrize("name", [name for name in SELECTORS.names() if name not in ("wandapp", *OF_EXPERTS)])
def test_a_selector_that_does_not_ask_is_not_tuned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """OSSCAR's number of swaps once made twenty rounds of training per block."""
    assert untouched(SELECTORS.get(name)(), monkeypatch)


def test_an_option_of_the_same_name_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Rounds().tuning_rounds == 0 and untouched(Rounds(), monkeypatch)


def test_wandapp_tunes_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert untouched(Wandapp(), monkeypatch)
    assert not untouched(Wandapp(rounds=2), monkeypatch)
