"""Allocations against NumPy transcriptions of their published rules, in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from optimum_grail.allocations import _ratios
from optimum_grail.allocations._ratios import kept_fractions
from optimum_grail.allocations.block_influence import BlockInfluence
from optimum_grail.allocations.fisher import Fisher
from optimum_grail.allocations.flap import Flap
from optimum_grail.allocations.incremental import Incremental
from optimum_grail.allocations.owl import Owl
from optimum_grail.core.budget import Budget, WidthClass, cost_of

LAYERS, CHANNELS, HEADS = 6, 200, 8
COST = {"mlp": 10, "heads": 250}
SEEDS = range(5)


def classes(seed: int) -> list[WidthClass]:
    """A decoder: heads and FFN of equal cost in every layer, random signals."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for layer in range(LAYERS):
        influence = torch.rand(1, generator=draw, dtype=torch.float64)
        for kind, units in (("heads", HEADS), ("mlp", CHANNELS)):
            scores = torch.randn(1, units, generator=draw, dtype=torch.float64)
            columns = torch.randn(1, units, generator=draw, dtype=torch.float64).mul(1.5).exp()
            signals = {"fluctuation": scores, "outliers": columns, "influence": influence}
            signals["information"] = columns.square()
            widths = tuple(range(1, units + 1))
            name = f"{kind}{layer}"
            item = WidthClass(
                name, kind, (name,), units, widths, COST[kind], None, str(layer), (layer, LAYERS), signals
            )
            found.append(item)
    return found


def whole(items: list[WidthClass]) -> int:
    return sum(item.whole for item in items)


def ratios(allocation: Any, items: list[WidthClass], sparsity: float, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The ratio of every layer before rounding."""
    seen: list[torch.Tensor] = []

    def recorded(*args: Any) -> torch.Tensor:
        seen.append(kept_fractions(*args))
        return seen[-1]

    monkeypatch.setattr(_ratios, "kept_fractions", recorded)
    monkeypatch.setattr(_ratios, "minimise", lambda *args: {})
    total = whole(items)
    allocation(items, Budget((1 - sparsity) * total, total))
    found = 1 - seen[0].numpy()
    np.testing.assert_allclose(found[0::2], found[1::2], atol=1e-12)  # heads and FFN of a layer alike
    return found[0::2]


@pytest.mark.parametrize("first", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5])
def test_incremental_is_slimgpts_logarithm(first: float, sparsity: float, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = np.arange(LAYERS)
    logs = np.log(1 + layers) / np.log(LAYERS)
    start = first * sparsity
    end = start + (sparsity - start) / logs.mean()  # so that the mean ratio is the sparsity
    expected = start + (end - start) * np.log(layers + 1) / np.log(LAYERS)
    found = ratios(Incremental(first=first), classes(0), sparsity, monkeypatch)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 10.0])
def test_block_influence_is_modegpts_softmax(seed: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    items, sparsity = classes(seed), 0.25
    influence = np.array([float(item.signals["influence"]) for item in items[0::2]])
    weights = np.exp(-influence / temperature)
    expected = LAYERS * sparsity * weights / weights.sum()
    found = ratios(BlockInfluence(temperature=temperature), items, sparsity, monkeypatch)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("outlier", "limit"), [(5.0, 0.08), (2.0, 0.2)])
def test_owl_spreads_the_outlier_ratios(
    seed: int, outlier: float, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, sparsity = classes(seed), 0.4
    shares = []
    for layer in range(LAYERS):
        metric = np.concatenate([items[2 * layer + side].signals["outliers"][0].numpy() for side in (0, 1)])
        shares.append((metric > metric.mean() * outlier).sum() / metric.size * 100)
    ratio = np.array(shares)
    ratio = (ratio - ratio.min()) * (1 / (ratio.max() - ratio.min()) * limit * 2)
    expected = 1 - (ratio - ratio.mean() + (1 - sparsity))
    found = ratios(Owl(outlier=outlier, limit=limit), items, sparsity, monkeypatch)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("sparsity", [0.2, 0.5])
def test_flap_is_one_threshold_on_all_scores(seed: int, sparsity: float) -> None:
    items = classes(seed)
    scores = np.concatenate([item.signals["fluctuation"][0].numpy() for item in items])
    costs = np.concatenate([np.full(item.units, item.cost) for item in items])
    descending = np.argsort(-scores)
    spent = np.cumsum(costs[descending])
    last = int(np.searchsorted(spent, (1 - sparsity) * costs.sum()))
    threshold = scores[descending[last]]
    expected = {item.name: int((item.signals["fluctuation"][0] >= threshold).sum()) for item in items}
    found = Flap()(items, Budget(float(spent[last]), whole(items)))
    assert min(expected.values()) >= 1
    assert cost_of(items, expected) == spent[last]
    assert found == expected


def test_flap_empties_no_layer() -> None:
    items = classes(1)
    items[2].signals["fluctuation"][:] -= 100
    items[3].signals["fluctuation"][:] -= 100
    found = Flap()(items, Budget(0.5 * whole(items), whole(items)))
    assert found[items[2].name] == 1 and found[items[3].name] == 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.7])
def test_fisher_is_kwons_mask_search(seed: int, sparsity: float) -> None:
    items = classes(seed)
    for item in items:
        item.signals["information"][0, 0] = 1e6  # one unit of every layer that no search drops
    found = Fisher()(items, Budget((1 - sparsity) * whole(items), whole(items)))
    heads, neurons = (
        np.sort(np.concatenate([item.signals["information"][0].numpy() for item in items if item.kind == kind]))[::-1]
        for kind in ("heads", "mlp")
    )
    best, split = -1.0, (0, 0)
    for count in range(LAYERS, len(heads) + 1):  # algorithm 1: so many heads, and what neurons the rest pays for
        rest = min(int((1 - sparsity) * whole(items) - count * COST["heads"]) // COST["mlp"], len(neurons))
        if rest >= LAYERS and heads[:count].sum() + neurons[:rest].sum() > best:
            best, split = heads[:count].sum() + neurons[:rest].sum(), (count, rest)
    for item in items:
        ranking, count = (heads, split[0]) if item.kind == "heads" else (neurons, split[1])
        assert found[item.name] == int((item.signals["information"][0].numpy() >= ranking[count - 1]).sum())
