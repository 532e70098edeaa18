"""From the asked sparsity to widths: budget, kinds, rounding, what the stock config can say, and every refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import nn

from optimum_grail.allocations._curved import Curved
from optimum_grail.allocations.balanced import Balanced
from optimum_grail.allocations.knapsack import Knapsack
from optimum_grail.allocations.uniform import Uniform
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_basic, tiny_bottleneck
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.core.contracts import Allocation
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.errors import BudgetError
from optimum_grail.models.layout import Layout
from optimum_grail.models.resolve import resolve
from optimum_grail.survey.findings import Curve, Findings
from optimum_grail.widths import allocate as allocation
from optimum_grail.widths.allocate import Widths, allocate
from optimum_grail.widths.request import Request

MODELS = {
    "llama": tiny_llama,
    "vit": tiny_vit,
    "clip": tiny_clip,
    "bottleneck": tiny_bottleneck,
    "basic": tiny_basic,
}
Accepts = Callable[[Sequence[ChannelGroup], int], bool]


def anything(groups: Sequence[ChannelGroup], width: int) -> bool:
    return True


def nothing(groups: Sequence[ChannelGroup], width: int) -> bool:
    return width == groups[0].units


def powers_of_two(groups: Sequence[ChannelGroup], width: int) -> bool:
    """As LlamaConfig: the number of heads has to divide the hidden size; FFNs are free."""
    return groups[0].kind != "heads" or width & (width - 1) == 0


def only_ffns(groups: Sequence[ChannelGroup], width: int) -> bool:
    """As BertConfig: heads cannot be said."""
    return groups[0].kind == "mlp"


def layout_of(build: Callable[[], nn.Module]) -> Layout:
    return resolve(build())


def curves_of(layout: Layout, **sensitivity: float) -> dict[str, Curve]:
    """Quadratic error curves; ``sensitivity`` by kind, 1 by default."""
    found = {}
    for group in layout.groups:
        errors = torch.linspace(0, 1, group.units + 1, dtype=torch.float64) ** 2
        found[group.name] = Curve(errors, torch.arange(group.units - 1), sensitivity.get(group.kind, 1.0))
    return found


def run(
    layout: Layout,
    request: Request,
    method: Allocation | None = None,
    accepts: Accepts = anything,
    curves: dict[str, Curve] | None = None,
) -> Widths:
    method = method or Uniform()
    if isinstance(method, Curved):
        curves = curves or curves_of(layout)
    return allocate(layout, request, method, accepts, Findings(curves or {}))


def finest(layout: Layout, tied: bool) -> int:
    """Parameters of one FFN (or convolution) step."""
    groups = [group for group in layout.groups if group.kind != "heads"]
    if not tied:
        return min(group.cost for group in groups)
    return min(sum(other.cost for other in groups if other.tie == group.tie) for group in groups)


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("method", [Uniform(), Balanced(), Knapsack()], ids=["uniform", "balanced", "knapsack"])
@pytest.mark.parametrize("name", MODELS)
def test_the_budget_is_met(name: str, method: Allocation, sparsity: float) -> None:
    """At most half a percent of the blocks too small, never a whole step too large; counted in shapes."""
    layout = layout_of(MODELS[name])
    widths = run(layout, Request(sparsity, standalone=False), method)
    assert set(widths.kept) == set(layout.widths)
    gone = layout.removed_parameters(widths.kept)
    asked = sparsity * layout.block_parameters
    step = finest(layout, method.tied)
    assert asked - step < gone <= asked + 0.005 * layout.block_parameters
    if method.tied:
        ties: dict[str, set[int]] = {}
        for group in layout.groups:
            ties.setdefault(group.tie, set()).add(widths.kept[group.name])
        assert all(len(found) == 1 for found in ties.values())


@pytest.mark.parametrize("sparsity", [0.2, 0.27, 0.5, 0.73])
@pytest.mark.parametrize("method", [Uniform(), Balanced()], ids=["uniform", "balanced"])
def test_heads_with_gaps_leave_the_rest_to_the_ffn(method: Allocation, sparsity: float) -> None:
    layout = layout_of(tiny_llama)
    widths = run(layout, Request(sparsity), method, powers_of_two)
    assert {widths.kept[group.name] for group in layout.groups if group.kind == "heads"} <= {1, 2, 4}
    left = layout.removed_parameters(widths.kept) - sparsity * layout.block_parameters
    assert -finest(layout, True) < left <= 0.005 * layout.block_parameters


def test_uniform_keeps_the_same_fraction_of_every_kind() -> None:
    layout = layout_of(tiny_vit)
    kept = run(layout, Request(0.5), Uniform()).kept
    assert {kept[group.name] for group in layout.groups if group.kind == "heads"} == {2}
    channels = {kept[group.name] for group in layout.groups if group.kind == "mlp"}
    assert len(channels) == 1 and abs(channels.pop() - 24) <= 2


def test_balanced_spares_what_is_sensitive() -> None:
    layout = layout_of(tiny_llama)
    spared = run(layout, Request(0.3), Balanced(), anything, curves_of(layout, heads=100.0))
    pruned = run(layout, Request(0.3), Balanced(), anything, curves_of(layout, heads=1e-3))
    heads = [group.name for group in layout.groups if group.kind == "heads"]
    assert all(spared.kept[name] == 4 for name in heads) and all(pruned.kept[name] < 3 for name in heads)
    assert "All attention heads stay." in spared.notes
    assert spared.predicted is not None and pruned.predicted is not None


def test_free_widths_are_predicted_to_be_no_worse() -> None:
    layout = layout_of(tiny_llama)
    curves = curves_of(layout)
    for index, (name, curve) in enumerate(curves.items()):
        curves[name] = Curve(curve.errors, curve.order, 10.0**index)
    tied = run(layout, Request(0.4), Balanced(), anything, curves)
    free = run(layout, Request(0.4), Knapsack(), anything, curves)
    assert tied.predicted_free is not None and tied.predicted is not None and free.predicted is not None
    assert tied.predicted_free < tied.predicted and free.predicted < tied.predicted
    assert free.predicted_free is None
    assert run(layout, Request(0.4), Uniform()).predicted is None


@pytest.mark.parametrize("method", [Uniform(), Balanced()], ids=["uniform", "balanced"])
@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ({"mlp": 0.5}, {"mlp": 24, "heads": 4}),
        ({"heads": 0.5}, {"mlp": 48, "heads": 2}),
        ({"mlp": 0.25, "heads": 0.75}, {"mlp": 36, "heads": 1}),
        ({"heads": 0.3}, {"mlp": 48, "heads": 3}),
    ],
)
def test_kinds_lose_the_fraction_asked_and_others_stay_whole(
    method: Allocation, kinds: dict[str, float], expected: dict[str, int]
) -> None:
    layout = layout_of(tiny_llama)
    widths = run(layout, Request(None, kinds), method)
    assert all(widths.kept[group.name] == expected[group.kind] for group in layout.groups)
    assert widths.notes == (), "what was not asked to go is no news"


def test_channels_lose_the_fraction_asked_in_every_stage() -> None:
    layout = layout_of(tiny_basic)
    widths = run(layout, Request(None, {"conv": 0.5}), Uniform(), nothing)
    assert all(widths.kept[group.name] == group.units // 2 for group in layout.groups)


@pytest.mark.parametrize("round_to", [4, 8, 16])
@pytest.mark.parametrize("method", [Uniform, Balanced], ids=["uniform", "balanced"])
def test_widths_are_rounded(method: Callable[..., Allocation], round_to: int) -> None:
    layout = layout_of(tiny_llama)
    kept = run(layout, Request(0.4), method(round_to=round_to)).kept
    for group in layout.groups:
        assert group.kind == "heads" or kept[group.name] % round_to == 0 or kept[group.name] == group.units
    share = run(layout, Request(None, {"mlp": 0.4}), method(round_to=round_to)).kept
    assert {share[group.name] for group in layout.groups if group.kind == "mlp"} <= {28, 24, 32}


@pytest.mark.parametrize("standalone", [None, True])
def test_what_the_stock_config_cannot_say_stays_whole(standalone: bool | None) -> None:
    layout = layout_of(tiny_llama)
    widths = run(layout, Request(0.2, standalone=standalone), Uniform(), only_ffns)
    assert all(widths.kept[group.name] == 4 for group in layout.groups if group.kind == "heads")
    assert widths.notes == ("All attention heads stay.",)
    free = run(layout, Request(0.2, standalone=False), Uniform(), only_ffns)
    assert all(free.kept[group.name] == 3 for group in layout.groups if group.kind == "heads")


def test_by_default_the_table_takes_what_the_stock_config_cannot_reach() -> None:
    layout = layout_of(tiny_llama)
    widths = run(layout, Request(0.7), Uniform(), only_ffns)
    assert all(widths.kept[group.name] < 4 for group in layout.groups if group.kind == "heads")
    assert any("layer table" in note for note in widths.notes)


def test_by_default_a_kind_that_is_named_goes_to_the_table() -> None:
    layout = layout_of(tiny_llama)
    widths = run(layout, Request(None, {"heads": 0.5}), Uniform(), only_ffns)
    assert all(widths.kept[group.name] == 2 for group in layout.groups if group.kind == "heads")
    assert any("heads" in note and "import optimum_grail" in note for note in widths.notes)


def test_by_default_a_family_without_stock_widths_goes_to_the_table() -> None:
    layout = layout_of(tiny_basic)
    widths = run(layout, Request(0.5), Uniform(), nothing)
    assert any("conv" in note and "import optimum_grail" in note for note in widths.notes)


def test_free_widths_say_that_they_need_the_package() -> None:
    widths = run(layout_of(tiny_llama), Request(0.5), Knapsack(), powers_of_two)
    assert any("import optimum_grail" in note for note in widths.notes)


@pytest.mark.parametrize(
    ("build", "request_", "method", "accepts", "message"),
    [
        (tiny_llama, Request(None, {"heads": 0.5}, standalone=True), Uniform(), only_ffns, "kind 'heads'"),
        (tiny_llama, Request(0.5, standalone=True), Knapsack(), anything, "free widths per layer"),
        (tiny_basic, Request(0.5, standalone=True), Uniform(), nothing, "any kind of this family"),
    ],
)
def test_standalone_refuses_what_only_the_table_could_say(
    build: Callable[[], nn.Module], request_: Request, method: Allocation, accepts: Accepts, message: str
) -> None:
    with pytest.raises(BudgetError, match=f"{message}.*--no-standalone"):
        run(layout_of(build), request_, method, accepts)


@pytest.mark.parametrize("method", [Uniform(), Balanced()], ids=["uniform", "balanced"])
def test_a_sparsity_out_of_reach_names_the_largest(method: Allocation) -> None:
    layout = layout_of(tiny_llama)
    with pytest.raises(BudgetError, match=r"sparsity of 0\.7 cannot be reached.*at most 0\.4172.*--no-standalone"):
        run(layout, Request(0.7, standalone=True), method, only_ffns)
    with pytest.raises(BudgetError, match=r"sparsity of 0\.995 cannot be reached"):
        run(layout, Request(0.995), method)


def test_a_request_that_prunes_nothing_is_refused() -> None:
    for request, method in ((Request(None, {"heads": 0.1}), Uniform()), (Request(None, {"mlp": 0.2}), Uniform(48))):
        with pytest.raises(BudgetError, match=r"prunes nothing.*higher sparsity.*--round-to"):
            run(layout_of(tiny_llama), request, method)


def test_a_fraction_that_leaves_no_unit_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"--head-sparsity 0\.9 leaves none of 4 .*at most 0\.75"):
        run(layout_of(tiny_llama), Request(None, {"heads": 0.9}))


def test_a_kind_that_the_model_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(BudgetError, match=r"--channel-sparsity 0\.5.*no groups.*--ffn-sparsity, --head-sparsity"):
        run(layout_of(tiny_llama), Request(None, {"conv": 0.5}))


def test_a_rival_leaves_attention_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "RIVALS", 1e9)
    layout = resolve(tiny_llama())

    def heads(kept: Mapping[str, int]) -> set[int]:
        return {kept[group.name] for group in layout.groups if group.kind == "heads"}

    def judge(kept: Mapping[str, int], dropped: Sequence[str]) -> float:
        return 0.1 if heads(kept) == {4} else 0.2

    curves = Findings(curves_of(layout, heads=1e-6))
    own = allocate(layout, Request(0.2), Balanced(), anything, curves)
    found = allocate(layout, Request(0.2), Balanced(), anything, curves, judge)
    assert heads(own.kept) != {4} == heads(found.kept)
    gone = layout.removed_parameters(found.kept) / layout.block_parameters
    assert gone == pytest.approx(0.2, abs=0.03)
    most = allocate(layout, Request(0.8), Balanced(), anything, curves, judge)
    assert heads(most.kept) != {4}, "channels alone cannot give so much"
