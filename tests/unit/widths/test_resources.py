"""Budgets of parameters, FLOPs, key-value cache and latency; sensitivities by forward passes and by gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.allocations.knapsack import Knapsack
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_bottleneck
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.config.building import build_method
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.data.batches import Batch, make_batches
from optimum_grail.errors import BudgetError
from optimum_grail.models.layout import Layout
from optimum_grail.models.resolve import resolve
from optimum_grail.models.surgery import narrow_
from optimum_grail.report.progress import Silent
from optimum_grail.signals import latency
from optimum_grail.signals.positions import positions
from optimum_grail.survey.findings import Curve, Findings
from optimum_grail.survey.survey import Survey
from optimum_grail.widths.allocate import allocate, check_request
from optimum_grail.widths.request import Request
from optimum_grail.widths.resources import resource_of

TOKENS = 14


def anything(groups: Sequence[ChannelGroup], width: int) -> bool:
    return True


def batches_of(model: nn.Module, count: int = 12) -> tuple[Batch, ...]:
    draw = torch.Generator().manual_seed(1)
    kind = model.config.model_type
    samples = []
    for _ in range(count):
        sample = {}
        if kind in ("llama", "clip"):
            sample["input_ids"] = torch.randint(3, 90, (TOKENS,), generator=draw)
        if kind != "llama":
            size = 32 if kind == "resnet" else 16
            sample["pixel_values"] = torch.randn(3, size, size, generator=draw)
        samples.append(sample)
    return make_batches(samples, batch_size=4)


def curves_of(layout: Layout) -> dict[str, Curve]:
    found = {}
    for index, group in enumerate(layout.groups):
        errors = torch.linspace(0, 1, group.units + 1, dtype=torch.float64) ** 2
        found[group.name] = Curve(errors, torch.arange(group.units - 1), 1.0 + index % 4)
    return found


def counted_flops(model: nn.Module, batch: Batch, layout: Layout) -> float:
    """Multiply-adds of linear layers, convolutions and norms in the blocks, and of attention, of one sample."""
    total = 0.0
    handles = []

    def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        nonlocal total
        weights = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        channels = output.shape[1] if output.dim() == 4 else output.shape[-1]
        total += 2.0 * weights * output[0].numel() / channels

    for stack in layout.stacks:
        for path in stack.blocks:
            for module in model.get_submodule(path).modules():
                if list(module.parameters(recurse=False)):
                    handles.append(module.register_forward_hook(hook))
    model(**batch.head().inputs)
    for handle in handles:
        handle.remove()
    for group in layout.groups:
        if group.kind == "heads":
            width = model.get_submodule(group.consumer.module).weight.shape[1]
            total += 4 * TOKENS**2 * width
    return total


@pytest.mark.parametrize("build", [tiny_llama, tiny_bottleneck])
@pytest.mark.parametrize("sparsity", [0.3, 0.6])
def test_flops_are_those_of_the_smaller_model(build: Callable[[], nn.Module], sparsity: float) -> None:
    model = build()
    layout, batches = resolve(model), batches_of(model)
    findings = Findings(curves_of(layout), {"positions": positions(model, layout, batches[0])})
    request = Request(sparsity, standalone=False)
    widths = allocate(layout, request, Knapsack(budget="flops"), anything, findings)
    dense = counted_flops(model, batches[0], layout)
    assert resource_of("flops", layout, request, findings).total == dense
    for group in layout.groups:
        narrow_(model, group, widths.kept[group.name])
    gone = 1 - counted_flops(model, batches[0], layout) / dense
    assert gone == pytest.approx(sparsity, abs=0.03)
    assert (widths.budget, widths.removed) == ("FLOPs", pytest.approx(gone, abs=1e-9))


def test_flops_and_parameters_are_different_budgets() -> None:
    """In a ResNet early layers have few parameters and many positions."""
    model = tiny_bottleneck()
    layout = resolve(model)
    findings = Findings(curves_of(layout), {"positions": positions(model, layout, batches_of(model)[0])})
    request = Request(0.4, standalone=False)
    flops = allocate(layout, request, Knapsack(budget="flops"), anything, findings).kept
    parameters = allocate(layout, request, Knapsack(), anything, findings).kept
    early = [group.name for group in layout.groups if ".stages.0." in group.name]
    assert sum(flops[name] for name in early) < sum(parameters[name] for name in early)


def test_the_cache_shrinks_by_heads_alone() -> None:
    layout = resolve(tiny_llama())
    method = Knapsack(budget="kv-cache")
    widths = allocate(layout, Request(0.5, standalone=False), method, anything, Findings(curves_of(layout)))
    heads = [group for group in layout.groups if group.kind == "heads"]
    assert sum(widths.kept[g.name] for g in heads) == sum(g.units for g in heads) // 2
    assert (widths.budget, widths.removed) == ("key-value cache", 0.5)
    assert all(widths.kept[g.name] == g.units for g in layout.groups if g.kind == "mlp")
    with pytest.raises(BudgetError, match=r"0\.9 of the key-value cache cannot be reached.*at most 0\.7500 of the"):
        check_request(layout, Request(0.9, standalone=False), method, anything)
    with pytest.raises(BudgetError, match="no attention heads"):
        check_request(resolve(tiny_bottleneck()), Request(0.5, standalone=False), method, anything)


def fake_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block takes as long as it has FFN channels in sixteens and head columns in fours, and a constant."""

    def seconds(block: nn.Module, call: Any, hidden: Any) -> float:
        channels, width = block.mlp.down_proj.weight.shape[1], block.self_attn.o_proj.weight.shape[1]
        return 1e-3 * (5 - (-channels // 16) - (-width // 4))

    monkeypatch.setattr(latency, "_seconds", seconds)


def test_latency_is_measured_on_the_widths_and_met(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_seconds(monkeypatch)
    model = tiny_llama()
    layout, state = resolve(model), copy.deepcopy(model.state_dict())
    method = Knapsack(budget="latency")
    findings = Survey(model, layout, batches_of(model), Silent(), method.needs).run()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    tables = findings.of("latency")
    blocks = layout.stacks[0].blocks
    whole = 5 + 48 // 16 + 64 // 4
    assert all(float(tables[path]) == pytest.approx(1e-3 * whole) for path in blocks)
    ffn = tables["model.layers.1.mlp"]
    assert len(ffn) == 49 and bool((ffn.diff() >= 0).all())
    assert float(ffn[24] - ffn[48]) == pytest.approx(-1e-3), "two of three sixteens are left"
    request = Request(0.4, standalone=False)
    resource = resource_of("latency", layout, request, findings)
    kept = allocate(layout, request, method, anything, findings).kept
    assert resource.removed(kept) / resource.total == pytest.approx(0.4, abs=0.01)
    with pytest.raises(BudgetError, match=r"0\.9 of the latency cannot be reached.*of the blocks' latency can go"):
        allocate(layout, Request(0.9, standalone=False), method, anything, findings)


def test_real_seconds_are_positive_and_rise() -> None:
    model = tiny_llama()
    findings = Survey(model, resolve(model), batches_of(model), Silent(), frozenset({"latency"})).run()
    tables = findings.of("latency")
    assert all(bool((table > 0).all()) for table in tables.values())
    assert bool((tables["model.layers.0.heads"].diff() >= 0).all())


def test_counts_of_units_know_no_other_resource() -> None:
    layout = resolve(tiny_llama())
    request = Request(None, {"mlp": 0.5}, standalone=False)
    with pytest.raises(BudgetError, match=r"budget=flops needs --sparsity.*--ffn-sparsity counts heads"):
        check_request(layout, request, Knapsack(budget="flops"), anything)


@pytest.mark.parametrize("build", [tiny_llama, tiny_vit, tiny_clip, tiny_bottleneck])
def test_gradients_rank_groups_nearly_as_forward_passes_do(build: Callable[[], nn.Module]) -> None:
    model = build()
    layout, batches = resolve(model), batches_of(model, 32)
    found: dict[str, Mapping[str, Curve]] = {}
    for need in ("curves", "gradient-curves"):
        found[need] = Survey(model, layout, batches, Silent(), frozenset({need})).run().curves
    assert all(not parameter.grad_fn and parameter.grad is None for parameter in model.parameters())
    forward, gradient = (
        torch.tensor([found[need][group.name].damage(group.units // 2) for group in layout.groups])
        for need in ("curves", "gradient-curves")
    )
    assert bool((gradient > 0).all())
    both = torch.stack([forward.clamp(min=1e-9).log(), gradient.log()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.8
    assert 0.4 < float(gradient.sum() / forward.sum()) < 3


@pytest.mark.parametrize("budget", ["parameters", "bytes", "flops", "kv-cache", "latency"])
@pytest.mark.parametrize("name", ALLOCATIONS.names())
def test_every_allocation_meets_every_budget(name: str, budget: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_seconds(monkeypatch)
    model = tiny_llama()
    layout = resolve(model)
    method = build_method("allocation", {"name": name, "budget": budget}, {})
    findings = Survey(model, layout, batches_of(model), Silent(), method.needs).run()
    request = Request(0.5, standalone=False)
    kept = allocate(layout, request, method, anything, findings).kept
    resource = resource_of(budget, layout, request, findings)
    assert resource.removed(kept) / resource.total == pytest.approx(0.5, abs=0.04)
    if budget == "kv-cache":
        assert all(kept[g.name] == g.units for g in layout.groups if g.kind == "mlp"), "they hold no keys and values"
