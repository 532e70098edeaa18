"""Experts that go: what the router is seen to do, which stay, and what their refit makes up for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.allocations.uniform import Uniform
from optimum_grail.architectures.moe import GPT_OSS, MIXTRAL, OLMOE, QWEN2_MOE
from optimum_grail.compensators.grail_plus import GrailPlus
from optimum_grail.compensators.none import NoCompensation
from optimum_grail.core.plan import Plan
from optimum_grail.core.routing import Routing
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.data.batches import Batch, make_batches
from optimum_grail.errors import ConfigError
from optimum_grail.fit import experts
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Silent
from optimum_grail.selectors.folding import Folding
from optimum_grail.selectors.frequency import Frequency
from optimum_grail.selectors.obs import Obs
from optimum_grail.selectors.random import Random
from optimum_grail.selectors.reap import Reap
from optimum_grail.streams.blocks import Batches, BlockRun, Streams
from optimum_grail.streams.capture import capture
from optimum_grail.streams.routing import routing_of

PLAIN = Methods(Obs(), NoCompensation(), Uniform(), expert_selector=Reap())
REFITTED = replace(PLAIN, compensator=GrailPlus())
SPECS = [pytest.param(spec, id=spec.model_types[0]) for spec in (MIXTRAL, OLMOE, QWEN2_MOE, GPT_OSS)]


def batches(count: int = 24, padding: int = 0) -> tuple[Batch, ...]:
    draw = torch.Generator().manual_seed(3)
    samples = []
    for _ in range(count):
        ids = torch.randint(3, 90, (24 + padding,), generator=draw)
        mask = torch.ones(24 + padding, dtype=torch.int64)
        mask[24:] = 0
        samples.append({"input_ids": ids, "attention_mask": mask})
    return make_batches(samples, batch_size=8)


def widths(model: nn.Module, experts: int = 3, heads: int | None = None) -> dict[str, int]:
    groups = resolve(model, experts=True).groups
    kept = {"experts": experts, "heads": heads}
    return {group.name: kept.get(group.kind) or group.units for group in groups}


def fit_(model: nn.Module, methods: Methods, kept: dict[str, int], data: tuple[Batch, ...]) -> Plan:
    return FitRun(model, resolve(model, experts=True), methods, kept, data, 0, Silent()).run_()


@torch.no_grad()
def logits(model: nn.Module, data: tuple[Batch, ...]) -> Tensor:
    return torch.cat([model(**batch.inputs).logits for batch in data])


def routed(model: nn.Module, data: tuple[Batch, ...], block: int = 0) -> Routing:
    """What the router of one block of the dense model does."""
    layout = resolve(model, experts=True)
    stack = layout.stacks[0]
    path = stack.blocks[block]
    captured = capture(model, {stack.name: stack.blocks}, data)[stack.name]
    run = BlockRun(
        model.get_submodule(path),
        path,
        captured.calls[path],
        Streams(captured.hidden, None),
        Batches.of(data, "attention_mask"),
        None,
    )
    return routing_of(run, next(group for group in layout.of_block(path) if group.kind == "experts"))


@pytest.mark.parametrize("spec", SPECS)
def test_routing_is_what_the_router_says(spec: ArchitectureSpec) -> None:
    model: Any = spec.example()  # type: ignore[misc]
    data = batches()
    found = routed(model, data)
    seen: list[tuple[Tensor, ...]] = []
    experts = next(group for group in resolve(model, experts=True).groups if group.kind == "experts")
    router = model.get_submodule(experts.producers[0].module)
    handle = router.register_forward_hook(lambda module, args, output: seen.append(output))
    logits(model, data)
    handle.remove()
    chosen = torch.cat([output[2].reshape(-1, 2) for output in seen])
    gates = torch.cat([output[1].reshape(-1, 2) for output in seen]).double()
    assert found.count == 24 * 24 == len(chosen)
    assert torch.equal(found.tokens, torch.bincount(chosen.flatten(), minlength=4).double())
    told = torch.zeros(4, dtype=torch.float64).index_add(0, chosen.flatten(), gates.flatten())
    assert torch.allclose(found.gates, told, rtol=1e-5)


def test_padding_is_routed_but_not_counted() -> None:
    model = MIXTRAL.example()  # type: ignore[misc]
    plain, padded = routed(model, batches()), routed(model, batches(padding=7))
    assert padded.count == plain.count and padded.tokens.sum() == plain.tokens.sum()


def test_reap_looks_at_what_is_put_out_and_frequency_at_how_often() -> None:
    model = MIXTRAL.example()  # type: ignore[misc]
    group = resolve(model, experts=True).groups[1]
    routing = routed(model, batches())
    bank = model.get_submodule(group.consumer.module)
    with torch.no_grad():
        bank.down_proj[int(routing.tokens.argmax())] *= 1e-3  # chosen most often, and says next to nothing
    loud = routed(model, batches())
    assert torch.equal(loud.tokens, routing.tokens)
    most = int(routing.tokens.argmax())
    kept = {}
    for chooser in (Reap(), Frequency()):
        small = MIXTRAL.example()  # type: ignore[misc]
        small.load_state_dict(model.state_dict())
        plan = fit_(small, replace(PLAIN, expert_selector=chooser), widths(small), batches())
        kept[chooser] = plan[group.name].reduction.kept.tolist()
    assert most not in kept[Reap()] and most in kept[Frequency()]


@pytest.mark.parametrize("spec", SPECS)
def test_a_refit_makes_up_for_experts_that_went(spec: ArchitectureSpec) -> None:
    data, errors = batches(64), {}
    for methods in (PLAIN, REFITTED):
        model = spec.example()  # type: ignore[misc]
        dense = logits(model, data)
        kept = widths(model)
        plan = fit_(model, methods, kept, data)
        assert resolve(model, experts=True).widths == kept
        assert set(plan) >= {name for name in kept if name.endswith("experts")}
        errors[methods] = float((logits(model, data) - dense).norm() / dense.norm())
        told = [plan[name].diagnostics["rerouted"] for name in kept if name.endswith("experts")]
        assert all(0 < share < 1 for share in told)
    assert errors[REFITTED] < 0.9 * errors[PLAIN]


@pytest.mark.parametrize("bytes_", [1 << 30, 1], ids=["in one pass", "one expert a pass"])
def test_experts_refitted_one_by_one_come_close_to_all_at_once(monkeypatch: pytest.MonkeyPatch, bytes_: int) -> None:
    data, errors = batches(64), {}
    for name, methods, features in (("plain", PLAIN, 0), ("apart", REFITTED, 0), ("together", REFITTED, 1 << 20)):
        monkeypatch.setattr(experts, "TOGETHER", features)
        monkeypatch.setattr(experts, "SHARE_BYTES", bytes_)
        model = MIXTRAL.example()  # type: ignore[misc]
        dense = logits(model, data)
        plan = fit_(model, methods, widths(model), data)
        errors[name] = float((logits(model, data) - dense).norm() / dense.norm())
        if name == "apart":
            told = [item.diagnostics for item in plan.values() if item.group.kind == "experts"]
            assert all(item["chosen"] == "one by one" and item["few_rows"] == "" for item in told)
    assert errors["apart"] < errors["plain"] - 0.7 * (errors["plain"] - errors["together"])


def test_experts_with_few_rows_are_named_and_hardly_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts, "TOGETHER", 0)
    model = MIXTRAL.example()  # type: ignore[misc]
    group = resolve(model, experts=True).groups[1]
    with torch.no_grad():
        model.get_submodule(group.producers[0].module).weight[3] = 0.0
        model.get_submodule(group.producers[0].module).weight[3, 0] = -50.0  # next to never chosen
    before = model.get_submodule(group.consumer.module).down_proj.detach().clone()
    chooser = Frequency()
    plan = fit_(model, replace(REFITTED, expert_selector=chooser), widths(model), batches(4))
    assert plan[group.name].diagnostics["few_rows"] or 3 not in plan[group.name].reduction.kept
    assert bool(torch.isfinite(model.get_submodule(group.consumer.module).down_proj).all()) and len(before) == 4


def test_plain_removal_leaves_the_others_as_they_were() -> None:
    model, twin = MIXTRAL.example(), MIXTRAL.example()  # type: ignore[misc]
    plan = fit_(model, PLAIN, widths(model), batches())
    for name, item in plan.items():
        kept, bank = item.reduction.kept, item.group.consumer.module
        for attribute in ("gate_up_proj", "down_proj"):
            left = getattr(model.get_submodule(bank), attribute)
            assert torch.equal(left, getattr(twin.get_submodule(bank), attribute)[kept]), name


def test_a_plan_without_data_needs_none() -> None:
    model = MIXTRAL.example()  # type: ignore[misc]
    blind = replace(PLAIN, selector=Random(), expert_selector=Random())
    assert not blind.needs
    plan = fit_(model, blind, widths(model, 2), ())
    assert {len(item.reduction.kept) for item in plan.values()} == {2}


def test_heads_and_experts_go_together_and_whole_experts_stay_untouched() -> None:
    data = batches(48)
    model, twin = MIXTRAL.example(), MIXTRAL.example()  # type: ignore[misc]
    plan = fit_(model, REFITTED, widths(model, 3, 2), data)
    assert len(plan) == 6 and bool(torch.isfinite(logits(model, data)).all())
    only = fit_(twin, REFITTED, widths(twin, 4, 2), data)
    assert all(item.group.kind == "heads" for item in only.values())
    dense = MIXTRAL.example()  # type: ignore[misc]
    for path, module in twin.named_modules():
        if path.endswith("experts"):
            assert torch.equal(module.down_proj, dense.get_submodule(path).down_proj)


@pytest.mark.parametrize("within_block", ["sequential", "joint"])
def test_experts_come_last_in_a_block(within_block: Any) -> None:
    model = QWEN2_MOE.example()  # type: ignore[misc]
    plan = fit_(model, replace(REFITTED, within_block=within_block), widths(model, 3, 2), batches(48))
    kinds = [item.group.kind for item in plan.values() if item.group.block.endswith("layers.0")]
    assert kinds[-1] == "experts"


def test_what_cannot_choose_experts_is_refused() -> None:
    with pytest.raises(ConfigError, match="judges whole experts"):
        replace(PLAIN, selector=Reap())
    model = MIXTRAL.example()  # type: ignore[misc]
    with pytest.raises(ConfigError, match="nothing chooses them"):
        fit_(model, replace(PLAIN, expert_selector=None), widths(model), batches())
    with pytest.raises(ConfigError, match="merges units"):
        fit_(model, replace(PLAIN, expert_selector=Folding()), widths(model), batches())
