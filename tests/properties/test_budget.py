"""Sharing a budget out: the search is exact, stays within the tolerances, and spends what it may."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optimum_grail.allocations.balanced import Balanced
from optimum_grail.allocations.uniform import Uniform
from optimum_grail.core.budget import (
    Budget,
    WidthClass,
    check_reachable,
    cost_of,
    finest_step,
    minimise,
    predicted,
    smallest,
    spend,
)
from optimum_grail.errors import BudgetError

SEEDS = st.integers(0, 2**20)


def damage_of(widths: Sequence[int], units: int, source: random.Random) -> torch.Tensor:
    """Falling to zero at the full width, steeper towards the narrow end."""
    power, size = source.uniform(1, 4), source.uniform(0.1, 10)
    return torch.tensor([size * (1 - width / units) ** power for width in widths], dtype=torch.float64)


def small_classes(source: random.Random, count: int, most: int = 9, dearest: int = 40) -> list[WidthClass]:
    """Few widths with gaps, of any kind."""
    classes = []
    for index in range(count):
        units = source.randint(2, most)
        widths = (*sorted(source.sample(range(1, units), source.randint(1, units - 1))), units)
        kind, damage = source.choice(["mlp", "heads", "conv"]), damage_of(widths, units, source)
        classes.append(WidthClass(f"c{index}", kind, (f"g{index}",), units, widths, source.randint(1, dearest), damage))
    return classes


def with_tables(classes: Sequence[WidthClass], source: random.Random) -> list[WidthClass]:
    """The same with costs that do not add up, as measured latencies: they rise in uneven steps, some of them none."""
    found = []
    for item in classes:
        steps = [source.choice([0, 1, 7, 30]) for _ in item.widths]
        found.append(replace(item, cost=tuple(itertools.accumulate(steps))))
    return found


def model_classes(source: random.Random, layers: int) -> list[WidthClass]:
    """Heads with gaps between their widths, and FFNs that weigh as much as the heads or more, as in transformers."""
    classes = []
    for layer in range(layers):
        units, channels = source.choice([4, 8, 12]), source.choice([64, 200, 333])
        head = source.randint(1000, 9000)
        widths = tuple(width for width in range(1, units + 1) if units % width == 0 or source.random() < 0.5)
        least = head * units // channels
        fine = tuple(range(1, channels + 1))
        classes += [
            WidthClass(f"h{layer}", "heads", (f"h{layer}",), units, widths, head, damage_of(widths, units, source)),
            WidthClass(
                f"m{layer}",
                "mlp",
                (f"m{layer}",),
                channels,
                fine,
                source.randint(least, 3 * least),
                damage_of(fine, channels, source),
            ),
        ]
    return classes


def allowed(classes: Sequence[WidthClass], budget: Budget) -> list[dict[str, int]]:
    """All widths that the rules permit, by brute force."""
    names = [item.name for item in classes]
    every = [dict(zip(names, widths, strict=True)) for widths in itertools.product(*(item.widths for item in classes))]
    least, step = budget.kept - budget.undershoot * budget.total, finest_step(classes)
    within = [widths for widths in every if least <= cost_of(classes, widths) <= budget.kept]
    above = [widths for widths in every if budget.kept < cost_of(classes, widths) < budget.kept + step]
    below = [widths for widths in every if cost_of(classes, widths) <= budget.kept]
    return within or above or [widths for widths in below if cost_of(classes, widths) == most(classes, below)]


def most(classes: Sequence[WidthClass], widths: Sequence[dict[str, int]]) -> int:
    return max(cost_of(classes, item) for item in widths)


@given(
    seed=SEEDS,
    count=st.integers(1, 3),
    share=st.floats(1e-9, 1),  # below, a budget exceeds the least cost by rounding alone
    undershoot=st.sampled_from([0.0, 0.005, 0.1]),
    tables=st.booleans(),
)
def test_minimise_equals_brute_force(seed: int, count: int, share: float, undershoot: float, tables: bool) -> None:
    source = random.Random(seed)
    classes = small_classes(source, count)
    classes = with_tables(classes, source) if tables else classes
    whole = sum(item.whole for item in classes)
    least = smallest(classes)
    budget = Budget(least + share * (whole - least), source.uniform(1, 1.5) * whole, undershoot)
    widths, permitted = minimise(classes, budget), allowed(classes, budget)
    assert widths in permitted
    assert predicted(classes, widths) <= min(predicted(classes, other) for other in permitted) + 1e-12


@given(seed=SEEDS, layers=st.integers(1, 3), sparsity=st.floats(0.05, 0.9), tied=st.booleans())
def test_widths_meet_the_budget(seed: int, layers: int, sparsity: float, tied: bool) -> None:
    """At most half a percent below, and never a whole FFN step above; costs too large for an exact table too."""
    classes = model_classes(random.Random(seed), layers)
    whole = sum(item.cost * item.units for item in classes)
    total = 1.1 * whole
    budget = Budget(whole - sparsity * total, total)
    if smallest(classes) > budget.kept:
        return
    for method in (Balanced(), Uniform()):
        widths = method(classes, budget)
        assert all(widths[item.name] in item.widths for item in classes)
        assert -finest_step(classes) < budget.kept - cost_of(classes, widths) <= budget.undershoot * total


@given(seed=SEEDS, layers=st.integers(1, 2), sparsity=st.floats(0.1, 0.8))
def test_minimise_predicts_no_more_damage_than_uniform(seed: int, layers: int, sparsity: float) -> None:
    classes = model_classes(random.Random(seed), layers)
    whole = sum(item.cost * item.units for item in classes)
    budget = Budget((1 - sparsity) * whole, whole)
    if smallest(classes) > budget.kept:
        return
    uniform = Uniform()(classes, budget)
    same = Budget(max(cost_of(classes, uniform), budget.kept), whole)
    slack = 2e-3 * sum(float(item.damage.max()) for item in classes if item.damage is not None)
    assert predicted(classes, minimise(classes, same)) <= predicted(classes, uniform) + slack


@given(seed=SEEDS, count=st.integers(1, 4), share=st.floats(0, 1))
def test_spend_leaves_nothing_that_fits(seed: int, count: int, share: float) -> None:
    source = random.Random(seed)
    classes = small_classes(source, count)
    start = {item.name: item.widths[0] for item in classes}
    whole = sum(item.cost * item.units for item in classes)
    budget = Budget(smallest(classes) + share * (whole - smallest(classes)), whole)
    widths = spend(classes, budget, start)
    cost = cost_of(classes, widths)
    assert cost < budget.kept + finest_step(classes) or cost == smallest(classes)
    steps = [
        item.cost * (item.widths[item.widths.index(widths[item.name]) + 1] - widths[item.name])
        for item in classes
        if widths[item.name] < item.units
    ]
    assert all(cost + step > budget.kept for step in steps)


def test_spend_takes_the_best_gain_per_cost_first() -> None:
    flat, steep = torch.tensor([1.0, 0.9]), torch.tensor([1.0, 0.1])
    classes = [
        WidthClass("a", "mlp", ("a",), 2, (1, 2), 10, flat),
        WidthClass("b", "mlp", ("b",), 2, (1, 2), 10, steep),
    ]
    assert spend(classes, Budget(30, 40, 0.5), {"a": 1, "b": 1}) == {"a": 1, "b": 2}
    assert spend(classes, Budget(25, 40, 0.5), {"a": 1, "b": 1}) == {"a": 1, "b": 1}


def test_spend_exceeds_by_less_than_a_step_only_if_much_is_left() -> None:
    classes = [WidthClass("a", "mlp", ("a",), 4, (1, 2, 3, 4), 10)]
    assert spend(classes, Budget(29, 40, 0.005), {"a": 2}) == {"a": 3}
    assert spend(classes, Budget(29, 40, 0.3), {"a": 2}) == {"a": 2}


def test_the_finest_step_is_that_of_ffns() -> None:
    heads = WidthClass("h", "heads", ("h",), 4, (1, 2, 4), 7)
    wide = WidthClass("m", "mlp", ("m",), 30, (10, 20, 30), 3)
    assert finest_step([heads, wide]) == 30
    assert finest_step([heads]) == 7
    assert finest_step([WidthClass("w", "mlp", ("w",), 4, (4,), 3)]) == 0


def test_nothing_below_the_smallest_widths_is_reachable() -> None:
    classes = [WidthClass("a", "mlp", ("a",), 4, (2, 4), 10)]
    check_reachable(classes, Budget(20, 100))
    check_reachable(classes, Budget(19.6, 100))
    for method in (Balanced(), Uniform()):
        with pytest.raises(
            BudgetError, match=r"A sparsity of 0\.9 cannot be reached.*at most 0\.2000.*--no-standalone"
        ):
            method(classes, Budget(15, 100, asked="A sparsity of 0.9"))


def test_a_head_comes_back_where_whole_ffns_cannot_spend_the_budget() -> None:
    """Rounding heads down may remove more than was asked; the FFN cannot give it back, so a head has to."""
    heads = WidthClass("h", "heads", ("h",), 4, (1, 2, 4), 1536)
    ffn = WidthClass("m", "mlp", ("m",), 48, tuple(range(1, 49)), 96)
    widths = Uniform()([heads, ffn], Budget(0.73 * 10752, 10752))
    assert widths["h"] == 4 and abs(cost_of([heads, ffn], widths) - 0.73 * 10752) < 96
