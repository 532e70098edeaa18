"""All signals: none depends on another or on their order, the model stays as it was, each tells its cost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from optimum_grail.allocations.fisher import Fisher
from optimum_grail.allocations.knapsack import Knapsack
from optimum_grail.allocations.uniform import Uniform
from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.compensators.grail import Grail
from optimum_grail.data.batches import Batch, few_of, make_batches
from optimum_grail.errors import ConfigError, StatisticsError
from optimum_grail.fit.methods import Methods
from optimum_grail.models.resolve import resolve
from optimum_grail.pipeline.estimate import estimate
from optimum_grail.report.progress import Silent
from optimum_grail.selectors.wanda import Wanda
from optimum_grail.signals import SIGNALS, Seen, Signal, Work
from optimum_grail.signals.drops import Drops
from optimum_grail.signals.influence import Influence
from optimum_grail.streams.pace import Pace
from optimum_grail.survey import survey as module
from optimum_grail.survey.findings import Findings
from optimum_grail.survey.survey import Survey, cost_of, signals_of

CURVES = frozenset(name for name, signal in SIGNALS if signal.finds == "curves")
OTHERS = frozenset(SIGNALS.names()) - CURVES - {"latency"}
WORK = Work(forward=100.0, gram=10.0, solve=1.0, groups=6, blocks=3, batches=5)


def batches_of(model: nn.Module, count: int = 12) -> tuple[Batch, ...]:
    draw = torch.Generator().manual_seed(1)
    samples = []
    for index in range(count):
        sample = {"input_ids": torch.randint(3, 60, (9 + index % 3,), generator=draw)}
        if model.config.model_type == "clip":
            sample = {"input_ids": torch.randint(3, 60, (9,), generator=draw)}
            sample["pixel_values"] = torch.randn(3, 16, 16, generator=draw)
        samples.append(sample)
    return make_batches(samples, batch_size=3)


def found(model: nn.Module, needs: frozenset[str]) -> Findings:
    return Survey(model, resolve(model), batches_of(model), Silent(), needs).run()


@pytest.mark.parametrize("build", [tiny_llama, tiny_clip, tiny_bert])
def test_together_or_alone_they_find_the_same(build: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build().eval()
    state = copy.deepcopy(model.state_dict())
    together = found(model, OTHERS | {"curves"}).to_tensors()
    monkeypatch.setattr(module, "signals_of", lambda needs: dict(reversed(signals_of(needs).items())))
    reverse = found(model, OTHERS | {"curves"}).to_tensors()
    alone = {}
    for name in OTHERS | {"curves"}:
        alone |= found(model, frozenset({name})).to_tensors()
    for other in (reverse, alone):
        assert other.keys() == together.keys()
        assert all(torch.equal(value, other[name]) for name, value in together.items())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


def test_nothing_runs_through_the_blocks_for_those_that_look_at_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "capture", lambda *args, **kwargs: pytest.fail("a walk for nothing"))
    signals = found(tiny_llama(), frozenset({"information", "positions"})).signals
    assert signals.keys() == {"information", "positions"}


def test_two_kinds_of_curves_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'bent-curves' and 'error-curves' both find 'curves'"):
        signals_of({"error-curves", "bent-curves"})


def test_a_signal_that_did_not_ask_for_the_tail_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Drops, "tail", False)
    with pytest.raises(StatisticsError, match="should declare `tail`"):
        found(tiny_llama(), frozenset({"drops"}))


def test_a_batch_that_changes_its_shape_has_influence_one() -> None:
    assert float(found(tiny_llama(), frozenset({"influence"})).of("influence")["model.layers.0.mlp"]) < 1
    seen = torch.ones(2, 3, 4)
    sums = Influence().batch(Seen("block", seen, seen[:, :2], {}, None))
    assert sums["block"].tolist() == [0.0, 1.0]


def test_few_batches_are_an_eighth_of_the_samples() -> None:
    batches = [Batch({"x": torch.zeros(size, 1)}, "fit") for size in (2, 1, 9, 1, 11)]
    assert few_of(batches) == [0, 1]
    assert few_of(batches[:1]) == [0]


@pytest.mark.parametrize("name", SIGNALS.names())
def test_every_signal_tells_its_cost(name: str) -> None:
    signal = SIGNALS.get(name)()
    cost, more = signal.cost(WORK), signal.cost(replace(WORK, forward=200.0, solve=2.0))
    assert 0 <= cost <= more
    assert cost_of([signal], WORK) >= cost + WORK.forward * (signal.wanted is not None) + WORK.gram * signal.moments


def test_costs_are_those_of_what_is_done() -> None:
    cost = {name: cost_of(signals_of({name}).values(), WORK) for name in SIGNALS.names()}
    assert cost["error-curves"] < cost["curves"] < cost["bent-curves"]
    deep = replace(WORK, groups=60, blocks=30)
    sweep, passes = (cost_of(signals_of({name}).values(), deep) for name in ("gradient-curves", "curves"))
    assert cost["error-curves"] < sweep == cost["gradient-curves"] < passes  # the sweep alone does not depend on depth
    assert cost["fluctuation"] == WORK.forward + WORK.gram and cost["influence"] == WORK.forward
    assert cost["positions"] == 0 and cost["information"] > WORK.forward
    assert cost_of([], WORK) == 0


class Dear(Signal):
    """Costs more than everything else."""

    def cost(self, work: Work) -> float:
        return 1e15


def test_the_estimate_asks_the_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimum_grail.pipeline.estimate.pace_of", lambda *args: Pace(1e-3, 1e-4, 1e9, 1e9, 1e-6, 4))
    model = tiny_llama()
    layout, batches = resolve(model), batches_of(model)

    def seconds(allocation: object) -> float:
        return estimate(model, layout, Methods(Wanda(), Grail(), allocation), batches).seconds  # type: ignore[arg-type]

    assert seconds(Uniform()) < seconds(Fisher()) < seconds(Knapsack())
    assert seconds(Knapsack(sensitivity="bent")) > seconds(Knapsack()), "three passes instead of one"
    monkeypatch.setitem(SIGNALS._entries, "gradient-curves", Dear)
    assert seconds(Knapsack()) > 1e6


def test_labels_are_read_where_a_signal_says_so() -> None:
    assert Methods(Wanda(), Grail(), Fisher()).reads_labels
    assert not Methods(Wanda(), Grail(), Knapsack()).reads_labels
