"""Every registered method of every kind: what holds for one holds for all, new files included."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.compensators import COMPENSATORS
from optimum_grail.config.building import REGISTRIES, build_method, method_options
from optimum_grail.core.budget import Budget, WidthClass, cost_of, finest_step
from optimum_grail.core.moments import Moments, Statistics, Subset, TargetMoments
from optimum_grail.core.needs import FIT_NEEDS, SIGNALS
from optimum_grail.core.problem import GroupProblem
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.routing import Routing
from optimum_grail.core.solve import NormalEquations
from optimum_grail.errors import ConfigError
from optimum_grail.registry import Registry
from optimum_grail.selectors import SELECTORS

NEEDS = {part: frozenset(SIGNALS.names()) if part == "allocation" else FIT_NEEDS for part in REGISTRIES}
UNITS, OUTPUTS = 6, 4
METHODS = [(part, name) for part, registry in REGISTRIES.items() for name in registry.names()]


@pytest.fixture(params=METHODS, ids="-".join, name="method")
def _method(request: pytest.FixtureRequest) -> tuple[str, Any]:
    part, name = request.param
    return part, REGISTRIES[part].get(name)


@pytest.fixture(params=[1, 3], ids=["span1", "span3"], name="problem")
def _problem(request: pytest.FixtureRequest) -> GroupProblem:
    return problem_of(request.param)


def problem_of(span: int, name: str = "layers.0.mlp", seed: int = 0) -> GroupProblem:
    """A consumer that owns a bias, with drift and held-out rows: everything that a method may ask for."""
    draw = torch.Generator().manual_seed(span)
    width = UNITS * span
    mixing = torch.randn(width, width, generator=draw)
    parts = []
    for count in (200, 50):
        rows = torch.randn(count, width, generator=draw) @ mixing + 1
        drift = rows[:, :1] / 5 + torch.randn(count, OUTPUTS, generator=draw) / 10
        parts.append(Subset(Moments.of(rows), TargetMoments.of(drift, rows)))
    weight = torch.randn(OUTPUTS, width, generator=draw, dtype=torch.float64)
    producers = (torch.randn(UNITS, 5 * span, generator=draw, dtype=torch.float64),)
    statistics = Statistics(tuple(parts))
    return GroupProblem(
        name,
        UNITS,
        weight,
        producers,
        statistics,
        owns_bias=True,
        mask_gradients=torch.randn(5, UNITS, generator=draw, dtype=torch.float64),
        block_gradients=torch.rand(OUTPUTS, width, generator=draw, dtype=torch.float64),
        seed=seed,
        routing=Routing(*torch.rand(3, UNITS, generator=draw, dtype=torch.float64), 100),
    )


def named(registry: Registry[Any]) -> list[Any]:
    return [pytest.param(registry.get(name), id=name) for name in registry.names()]


def test_a_method_is_a_frozen_dataclass_with_defaults_and_words(method: tuple[str, Any]) -> None:
    _, cls = method
    assert dataclasses.is_dataclass(cls) and cls.__doc__
    assert cls() == cls() and hash(cls()) == hash(cls())
    for name in method_options(cls):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(cls(), name, None)
        assert any(f"{name}:" in (base.__doc__ or "") for base in cls.__mro__), f"say what {name} is"


def test_a_method_asks_for_known_things_only(method: tuple[str, Any]) -> None:
    part, cls = method
    assert isinstance(cls().needs, frozenset) and cls().needs <= NEEDS[part]
    if part == "compensator":
        assert isinstance(cls().refits_whole_groups, bool)
    if part == "allocation":
        assert isinstance(cls().tied, bool) and "round_to" in method_options(cls)


def test_options_are_refused_with_a_message(method: tuple[str, Any]) -> None:
    part, cls = method
    name = cls.__module__.rpartition(".")[2].replace("_", "-")
    with pytest.raises(ConfigError, match=f"{name}.*no option 'nonsense'"):
        build_method(part, {"name": name, "nonsense": 1}, {})
    for option in method_options(cls):
        bad: list[Any] = [[1], {}]
        bad += ["a//b"] if option == "protect" else ["nonsense"]  # any word can be the name of a layer
        if isinstance(method_options(cls)[option][1], int | float) or "float" in str(method_options(cls)[option][0]):
            bad += [-1, math.nan, math.inf]
        for value in bad:
            with pytest.raises(ConfigError, match=option):
                build_method(part, {"name": name, option: value}, {})


@pytest.mark.parametrize("selector", named(SELECTORS))
@pytest.mark.parametrize("keep", [1, 3, UNITS - 1])
def test_a_selector_keeps_as_many_as_asked_and_says_the_same_twice(
    selector: Any, problem: GroupProblem, keep: int
) -> None:
    selection = selector()(problem, keep)
    reduction = selection.reduction
    assert reduction.slots == keep and len(reduction.assignment) == UNITS
    assert set(reduction.assignment.tolist()) - {-1} == set(range(keep))
    again = selector()(problem_of(problem.span), keep).reduction
    assert torch.equal(reduction.assignment, again.assignment) and torch.equal(reduction.weight, again.weight)
    if selection.order is not None:
        order = selection.order.tolist()
        assert len(set(order)) == len(order) >= UNITS - keep and set(order) <= set(range(UNITS))
        assert reduction.is_selection and not set(reduction.kept.tolist()) & set(order[: UNITS - keep])
    if selection.curve is not None:
        assert selection.curve[0] == 0 and bool((selection.curve.diff() >= -1e-12).all())


@pytest.mark.parametrize("selector", named(SELECTORS))
def test_a_selector_can_keep_everything(selector: Any, problem: GroupProblem) -> None:
    assert selector()(problem, UNITS).reduction.is_identity


@pytest.mark.parametrize("selector", [item for item in named(SELECTORS) if not item.values[0]().needs])
def test_a_selector_without_needs_reads_no_statistics(selector: Any, problem: GroupProblem) -> None:
    blind = dataclasses.replace(problem, statistics=None)
    assert torch.equal(selector()(blind, 3).reduction.assignment, selector()(problem, 3).reduction.assignment)


def test_random_choices_follow_seed_and_group(problem: GroupProblem) -> None:
    choose = SELECTORS.get("random")()
    found = {
        (name, seed): tuple(choose(problem_of(1, name, seed), 3).reduction.kept.tolist())
        for name in ("a", "b", "c", "d")
        for seed in range(4)
    }
    assert len({found[name, 0] for name in "abcd"}) > 1 and len({found["a", seed] for seed in range(4)}) > 1


@pytest.mark.parametrize("compensator", named(COMPENSATORS))
@pytest.mark.parametrize("selector", named(SELECTORS))
@pytest.mark.parametrize("keep", [1, 4, UNITS])
def test_every_pair_gives_a_readout_that_fits(
    selector: Any, compensator: Any, problem: GroupProblem, keep: int
) -> None:
    reduction = selector()(problem, keep).reduction
    found = compensator()(problem, reduction)
    weight, bias = found.readout.weight, found.readout.bias
    assert weight.shape == (OUTPUTS, keep * problem.span) and weight.dtype == torch.float64
    assert bool(torch.isfinite(weight).all())
    assert bias is None or (bias.shape == (OUTPUTS,) and bool(torch.isfinite(bias).all()))
    again = compensator()(problem, reduction).readout
    assert torch.equal(again.weight, weight) and (bias is None or torch.equal(again.bias, bias))
    for key, value in found.diagnostics.items():
        assert isinstance(key, str) and isinstance(value, str | float | int | bool | None)


@pytest.mark.parametrize("compensator", named(COMPENSATORS))
def test_a_compensator_leaves_a_whole_group_without_drift_alone(compensator: Any, problem: GroupProblem) -> None:
    statistics = problem.measured
    zero = TargetMoments.zero(OUTPUTS, problem.weight.shape[1])
    still = dataclasses.replace(
        problem, statistics=Statistics(tuple(Subset(part.moments, zero) for part in statistics.subsets))
    )
    whole = Reduction.keep_all(UNITS)
    readout = compensator()(still, whole).readout
    equations = NormalEquations.of(problem.weight, statistics.moments, zero, whole)
    assert equations.loss(readout) <= 1e-3 * equations.variance


@pytest.mark.parametrize("compensator", named(COMPENSATORS))
def test_a_compensator_gives_no_bias_to_a_consumer_without_one(compensator: Any, problem: GroupProblem) -> None:
    bare = dataclasses.replace(problem, owns_bias=False)
    assert compensator()(bare, Reduction.prune(UNITS, torch.arange(3))).readout.bias is None


@pytest.mark.parametrize("compensator", named(COMPENSATORS))
def test_a_compensator_folds_as_it_prunes(compensator: Any, problem: GroupProblem) -> None:
    reduction = Reduction.fold(torch.tensor([0, 0, 1, 2, 1, 2]))
    readout = compensator()(problem, reduction).readout
    assert readout.weight.shape == (OUTPUTS, 3 * problem.span) and bool(torch.isfinite(readout.weight).all())


def classes() -> list[WidthClass]:
    """Two stacks of heads and FFNs; heads have gaps between the widths allowed."""
    found = []
    for index, (units, channels) in enumerate([(8, 64), (12, 96)]):
        for kind, widths, cost in (
            ("heads", tuple(w for w in range(1, units + 1) if units % w == 0), 900),
            ("mlp", tuple(range(4, channels + 1, 4)), 150),
        ):
            damage = torch.tensor([(1 - width / widths[-1]) ** 2 for width in widths], dtype=torch.float64)
            name, most = f"{kind}{index}", widths[-1]
            found.append(
                WidthClass(
                    name, kind, (name,), most, widths, cost, damage, f"{index}", (index, 2), signals(most, index)
                )
            )
    return found


def signals(units: int, layer: int) -> dict[str, torch.Tensor]:
    """Everything that a survey may have found out about one group."""
    draw = torch.Generator().manual_seed(units)
    scores = torch.randn(1, units, generator=draw, dtype=torch.float64)
    influence = torch.tensor([0.1 + layer / 5], dtype=torch.float64)
    return {"fluctuation": scores, "information": scores.exp(), "outliers": scores.exp(), "influence": influence}


@pytest.mark.parametrize("allocation", named(ALLOCATIONS))
@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.7, 0.85])
def test_an_allocation_meets_the_budget_with_widths_allowed(allocation: Any, sparsity: float) -> None:
    items = classes()
    total = 1.02 * sum(item.cost * item.units for item in items)
    budget = Budget(0.98 * total - sparsity * total, total)
    widths = allocation()(items, budget)
    assert set(widths) == {item.name for item in items}
    assert all(widths[item.name] in item.widths for item in items)
    left = budget.kept - cost_of(items, widths)
    assert -finest_step(items) < left <= budget.undershoot * total
    assert allocation()(items, budget) == widths


@pytest.mark.parametrize("allocation", named(ALLOCATIONS))
def test_an_allocation_with_everything_left_prunes_nothing(allocation: Any) -> None:
    items = classes()
    whole = sum(item.cost * item.units for item in items)
    assert allocation()(items, Budget(whole, whole)) == {item.name: item.units for item in items}


def test_what_keeps_no_contract_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(frozen=True)
    class Stranger:
        needs = frozenset({"gram"})

        def __call__(self, problem: GroupProblem, keep: int) -> None:
            return None

    monkeypatch.setitem(SELECTORS._entries, "stranger", Stranger)
    with pytest.raises(ConfigError, match=r"selector 'stranger'.*derived from .*Selector"):
        build_method("selector", "stranger", {})


def test_a_method_carries_its_paper_and_its_presets(method: tuple[str, Any]) -> None:
    part, cls = method
    name = cls.__module__.rpartition(".")[2].replace("_", "-")
    assert cls.paper is None or cls.paper.startswith(("@inproceedings{", "@article{"))
    place = "expert_selector" if "routing" in cls().needs else part
    assert all(name in preset.values[place] for preset in cls.presets)
