"""Fields of the configuration that set options of the allocation: honoured, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.config.config import GrailConfig
from optimum_grail.errors import ConfigError


def allocation(**values: Any) -> Any:
    return GrailConfig(**values).methods()[2]


@pytest.mark.parametrize("name", ALLOCATIONS.names())
def test_every_allocation_takes_budgets_and_protection(name: str) -> None:
    method = allocation(allocation=name, budget="kv-cache", protect=[0, "heads"], round_to=8)
    assert (method.budget, method.protect, method.round_to) == ("kv-cache", "0/heads", 8)


@pytest.mark.parametrize("name", ["balanced", "knapsack", "balanced:depth=true"])
def test_layers_may_go(name: str) -> None:
    assert allocation(allocation=name, drop_layers=True).depth is True
    if "depth" not in name:
        assert allocation(allocation=name, drop_layers=False).depth is False


@pytest.mark.parametrize("name", ["uniform", "flap", "owl", "fisher", "block-influence", "incremental"])
def test_an_allocation_that_cannot_drop_layers_names_those_that_can(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' cannot drop whole layers.*balanced, knapsack"):
        allocation(allocation=name, drop_layers=True)
    assert not allocation(allocation=name, drop_layers=False).drops_layers


def test_an_allocation_that_drops_layers_anyway_is_refused_where_none_may_go() -> None:
    assert allocation(allocation="block-influence:drop=0.5", drop_layers=True).drop == 0.5
    with pytest.raises(ConfigError, match="'block-influence' drops whole layers, and drop_layers is false"):
        allocation(allocation="block-influence:drop=0.5", drop_layers=False)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"allocation": "knapsack:budget=flops", "budget": "latency"}, "budget=latency and budget=flops of"),
        ({"allocation": "uniform:protect=1", "protect": [0]}, "protect=0 and protect=1 of"),
        ({"allocation": {"name": "balanced", "depth": True}, "drop_layers": False}, "drop_layers=False and depth=True"),
        ({"allocation": "uniform:round_to=8", "round_to": 16}, "round_to=16 and round_to=8"),
        ({"allocation": "knapsack:budget=flops", "target_bytes": 5}, "budget=bytes and budget=flops of"),
        ({"allocation": "knapsack:budget=flops", "target_parameters": 5}, "budget=parameters and budget=flops of"),
    ],
)
def test_a_field_and_an_option_of_the_allocation_contradict_each_other(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"{words}.*contradict each other"):
        GrailConfig(**values).methods()


def test_a_field_and_an_option_that_say_the_same_do_not() -> None:
    assert allocation(allocation="knapsack:budget=flops,depth=true,protect=0/-1", protect=[0, -1], budget="flops").depth
    assert allocation(allocation="uniform:round_to=8", round_to=8).round_to == 8


def test_a_presets_options_give_way_to_fields() -> None:
    assert allocation(preset="comp", budget="flops", protect="heads").drop == 0.5
    assert allocation(preset="ziplm", budget="latency", drop_layers=True).sensitivity == "error"


@pytest.mark.parametrize(("target", "budget"), [("target_bytes", "bytes"), ("target_parameters", "parameters")])
def test_a_size_is_counted_in_its_own_budget(target: str, budget: str) -> None:
    config = GrailConfig(**{target: 1000})
    assert config.methods()[2].budget == budget
    assert (config.resolved().budget, getattr(config.resolved(), target)) == (budget, 1000)


def test_a_misspelt_option_is_guessed() -> None:
    with pytest.raises(ConfigError, match=r"no option 'bugdet'\. Did you mean 'budget'\?"):
        allocation(allocation="knapsack:bugdet=flops")
