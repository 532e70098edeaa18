"""Rounding, floors and protected layers hold for every allocation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.allocations.balanced import Balanced
from optimum_grail.allocations.block_influence import BlockInfluence
from optimum_grail.allocations.uniform import Uniform
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.config.building import build_method
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.errors import BudgetError, ConfigError
from optimum_grail.models.layout import Layout
from optimum_grail.models.resolve import resolve
from optimum_grail.survey.findings import Curve, Findings
from optimum_grail.widths.allocate import allocate, check_request
from optimum_grail.widths.classes import protected_groups
from optimum_grail.widths.request import Request

NAMES = ALLOCATIONS.names()
REQUEST = Request(0.4, standalone=False)


def anything(groups: Sequence[ChannelGroup], width: int) -> bool:
    return True


def findings_of(layout: Layout) -> Findings:
    """Everything that a survey may find out, at random."""
    draw = torch.Generator().manual_seed(0)
    curves: dict[str, Curve] = {}
    signals: dict[str, dict[str, torch.Tensor]] = {
        "fluctuation": {},
        "information": {},
        "outliers": {},
        "influence": {},
    }
    for index, group in enumerate(layout.groups):
        errors = torch.linspace(0, 1, group.units + 1, dtype=torch.float64) ** 2
        curves[group.name] = Curve(errors, torch.arange(group.units - 1), 1.0 + index % 3)
        scores = torch.randn(group.units, generator=draw, dtype=torch.float64)
        signals["fluctuation"][group.name] = scores
        signals["information"][group.name] = signals["outliers"][group.name] = scores.exp()
        signals["influence"][group.name] = torch.tensor(0.1 + index / 20, dtype=torch.float64)
    return Findings(curves, signals)


def kept(layout: Layout, name: str, request: Request = REQUEST, **options: Any) -> dict[str, int]:
    method = build_method("allocation", {"name": name, **options}, {})
    return allocate(layout, request, method, anything, findings_of(layout)).kept


@pytest.mark.parametrize("name", NAMES)
def test_widths_are_rounded(name: str) -> None:
    layout = resolve(tiny_llama())
    widths = kept(layout, name, round_to=8)
    assert all(widths[g.name] % 8 == 0 for g in layout.groups if g.kind == "mlp")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("option", "kind", "value", "least"), [("heads", "heads", 3, 3), ("ffn", "mlp", "0.45", 22)])
def test_floors_hold(name: str, option: str, kind: str, value: Any, least: int) -> None:
    layout = resolve(tiny_llama())
    request = Request(0.5, standalone=False)
    free, held = kept(layout, name, request), kept(layout, name, request, **{f"min_{option}": value})
    assert all(held[g.name] >= least for g in layout.groups if g.kind == kind)
    assert abs(layout.removed_parameters(held) - layout.removed_parameters(free)) <= 0.02 * layout.block_parameters


@pytest.mark.parametrize("name", NAMES)
def test_protected_layers_stay_whole_and_others_pay(name: str) -> None:
    layout = resolve(tiny_llama())
    widths = kept(layout, name, Request(0.2, standalone=False), protect="0/-1")
    for group in layout.groups:
        whole = widths[group.name] == group.units
        assert whole if group.layer in ("0", "2") else group.kind == "heads" or not whole
    # two of three layers are out of reach, so the sparsity that is left is too much for one
    with pytest.raises(BudgetError, match=r"0\.5 cannot be reached.*of the blocks' parameters"):
        kept(layout, name, Request(0.5, standalone=False), protect="0/-1")


def test_protected_layers_of_a_tied_allocation_need_the_table() -> None:
    layout = resolve(tiny_llama())
    method = Uniform(protect="0")
    widths = allocate(layout, Request(0.3), method, anything)
    assert len({widths.kept[g.name] for g in layout.groups if g.kind == "mlp" and g.layer != "0"}) == 1
    assert any("import optimum_grail" in note for note in widths.notes)
    with pytest.raises(BudgetError, match="free widths per layer"):
        allocate(layout, Request(0.3, standalone=True), method, anything)


def test_positions_count_within_every_stack() -> None:
    layout = resolve(tiny_clip())
    widths = kept(layout, "knapsack", Request(0.3, standalone=False), protect="-1")
    for stack in layout.stacks:
        assert all(widths[g.name] == g.units for g in layout.of_block(stack.blocks[-1]))
    with pytest.raises(BudgetError, match=r"protect names layer 2, but a stack has 2; expected -2 to 1"):
        kept(layout, "uniform", protect="2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_heads": -1}, "min_heads is -1"),
        ({"min_ffn": 1.5}, r"min_ffn is 1\.5; expected a count or a fraction"),
        ({"protect": "0//1"}, r"protect is '0//1'.*0/1/-1"),
        ({"budget": "money"}, r"budget is 'money'; expected parameters, flops, kv-cache, latency, bytes"),
        ({"round_to": 0}, "round_to is 0"),
    ],
)
def test_wrong_limits_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Balanced(**options)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("heads", "0.heads 1.heads 2.heads"),
        ("layers.1", "1.heads 1.mlp"),
        ("layers.*.mlp", "0.mlp 1.mlp 2.mlp"),
        ("model.layers.0.heads", "0.heads"),
        ("0/layers.2.mlp", "0.heads 0.mlp 2.mlp"),
        ("0/-3", "0.heads 0.mlp"),
    ],
)
@pytest.mark.parametrize("name", ["uniform", "knapsack", "flap"])
def test_patterns_protect_what_they_name(name: str, pattern: str, expected: str) -> None:
    layout = resolve(tiny_llama())
    widths = kept(layout, name, Request(0.15, standalone=False), protect=pattern)
    whole = {f"model.layers.{word}" for word in expected.split()}
    assert protected_groups(layout, build_method("allocation", {"name": name, "protect": pattern}, {})) == whole
    assert all(widths[place] == layout.widths[place] for place in whole)
    assert any(widths[place] < layout.widths[place] for place in layout.widths)


def test_protecting_a_whole_kind_leaves_the_layers_alike() -> None:
    layout = resolve(tiny_llama())
    widths = allocate(layout, Request(0.2, standalone=True), Uniform(protect="heads"), anything)
    assert all(widths.kept[g.name] == g.units for g in layout.groups if g.kind == "heads")
    assert not any("import optimum_grail" in note for note in widths.notes)


@pytest.mark.parametrize("method", [Uniform(protect="layer.7"), Uniform(protect="layer.7", budget="flops")])
def test_a_pattern_that_fits_nothing_is_refused_before_any_work(method: Uniform) -> None:
    with pytest.raises(BudgetError, match=r"protect names 'layer\.7'.*for example, model\.layers\.0, "):
        check_request(resolve(tiny_llama()), Request(0.2), method, anything)


def test_limits_are_written_in_words() -> None:
    method = build_method("allocation", "flap:protect=0/-1,min_heads=0.25,min_ffn=16", {})
    assert method.protected(4) == {0, 3}
    assert (method.least("heads", 12), method.least("mlp", 64), method.least("mlp", 8)) == (3, 16, 8)


@pytest.mark.parametrize("name", ["incremental", "owl", "block-influence", "flap"])
def test_no_layer_grows_when_more_goes(name: str) -> None:
    """Widths follow a rule that falls with the sparsity; rounding may move a unit of one layer to another."""
    layout = resolve(tiny_llama())
    before = layout.widths
    for sparsity in (0.2, 0.4, 0.6):
        now = kept(layout, name, Request(sparsity, standalone=False))
        assert all(now[g.name] <= before[g.name] + (1 if g.kind == "heads" else 3) for g in layout.groups)
        before = now


def test_the_least_influential_layers_go_first_as_far_as_their_share_allows() -> None:
    sizes = {"a": 10, "b": 10, "c": 10, "d": 30}
    influence = {"a": 0.3, "b": 0.1, "c": 0.2, "d": 0.05}
    assert BlockInfluence().dropped(influence, sizes, 40) == ()
    assert BlockInfluence(drop=0.5).dropped(influence, sizes, 40) == ("b", "c"), "d is too large for half of 40"
    assert BlockInfluence(drop=1.0).dropped(influence, sizes, 100) == ("b", "c", "d"), "one layer stays"
    small = {**sizes, "b": 2}
    assert BlockInfluence(drop=0.5).dropped(influence, small, 24) == ("c",), (
        "b has less influence, but not for its size"
    )
    with pytest.raises(ConfigError, match=r"drop is 2"):
        BlockInfluence(drop=2)
    with pytest.raises(ConfigError, match=r"parts is 'heads'; expected 'layers' or 'sub-blocks'"):
        BlockInfluence(parts="heads")


def test_dropped_layers_count_towards_the_budget_and_protected_ones_stay() -> None:
    layout = resolve(tiny_llama())
    blocks = layout.stacks[0].blocks
    size = layout.block_parameters // 3
    influence = dict(zip(blocks, (0.1, 0.2, 0.3), strict=True))
    found = {g.name: torch.tensor(influence[g.block], dtype=torch.float64) for g in layout.groups}
    signals = {"influence": found}
    for protect, gone in (("none", blocks[0]), ("0", blocks[1])):
        method = BlockInfluence(drop=0.7, protect=protect)
        found = allocate(layout, Request(0.5, standalone=False), method, anything, Findings(signals=signals))
        assert found.dropped == (gone,)
        others = sum(g.cost * (g.units - found.kept[g.name]) for g in layout.groups if g.block != gone)
        assert others + size == pytest.approx(0.5 * layout.block_parameters, rel=0.02)
