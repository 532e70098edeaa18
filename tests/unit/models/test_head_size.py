"""Heads that can shrink inside: how they are found, what becomes of their weights, what the stock config then says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.llama import tiny_llama, tiny_mistral
from optimum_grail.core.head_size import HeadReduction
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.reduction import Reduction
from optimum_grail.errors import ArchitectureError, GrailError
from optimum_grail.export.rope import read_rope
from optimum_grail.models.depth import drop_blocks_
from optimum_grail.models.head_size import POSITIONS, OwnTurns
from optimum_grail.models.layout import Layout
from optimum_grail.models.resolve import resolve
from optimum_grail.models.rotary import check_head_size, check_static, resized, settle_head_size_, turns_of
from optimum_grail.models.surgery import apply_

tiny_one_key = tiny("LlamaForCausalLM", **{**WIDE_HEADS, "num_key_value_heads": 1})
tiny_qwen2 = tiny("Qwen2ForCausalLM", **WIDE_HEADS)
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16}


def turning(**turns: Any) -> LlamaForCausalLM:
    """A small LLaMA with these rotary positions."""
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_attention_heads=2, rope_parameters=turns)).eval()


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planned(layout: Layout, name: str, pairs: list[int], groups: int) -> GroupPlan:
    """Heads of one group that keep ``pairs``, with values turned at random."""
    group = layout.group(name)
    size, heads = 8, group.consumer.span * group.units // 8
    values, outputs = drawn((groups, 2 * len(pairs), size), 1), drawn((heads, size, 2 * len(pairs)), 2)
    inside = HeadReduction(torch.tensor(pairs), values, outputs)
    return GroupPlan(group, Reduction.keep_all(group.units), None, inside=inside)


@pytest.mark.parametrize("build", [tiny_llama, tiny_mistral, tiny_one_key, tiny_qwen2])
def test_heads_that_can_shrink_are_found(build: Callable[[], nn.Module]) -> None:
    for group in resolve(build()).groups:
        if group.kind != "heads":
            assert group.inside is None and group.resized(4) is group
            continue
        assert group.inside is not None and group.inside.size == 8
        assert group.inside.query == f"{group.block}.self_attn.q_proj" and group.inside.rotary == "model.rotary_emb"
        smaller = group.resized(4)
        assert smaller.consumer.span == group.consumer.span // 2 and smaller.cost == group.cost // 2
        assert smaller.cached == group.cached // 2 and smaller.units == group.units


def test_other_heads_cannot() -> None:
    assert all(group.inside is None for group in resolve(tiny_bert()).groups)


@pytest.mark.parametrize("build", [tiny_llama, tiny_one_key, tiny_qwen2])
def test_weights_and_biases_become_what_the_plan_says(build: Callable[[], nn.Module]) -> None:
    model: Any = build()
    before, layout = copy.deepcopy(model.model.layers[0].self_attn), resolve(model)
    shared = model.config.num_key_value_heads
    item = planned(layout, "model.layers.0.heads", [1, 2], shared)
    apply_(model, Plan([item]))
    after, inside, dims = model.model.layers[0].self_attn, item.inside, [1, 2, 5, 6]
    assert inside is not None
    for name in ("weight", "bias"):
        old, new = getattr(before.q_proj, name), getattr(after.q_proj, name)
        if old is None:
            continue
        heads = old.unflatten(0, (-1, 8))
        assert torch.allclose(new.unflatten(0, (-1, 4)), heads[:, dims] * 0.5**0.5)
        keys = getattr(before.k_proj, name).unflatten(0, (-1, 8))
        assert torch.equal(getattr(after.k_proj, name).unflatten(0, (-1, 4)), keys[:, dims])
        values = getattr(before.v_proj, name).double().unflatten(0, (-1, 8))
        expected = torch.einsum("hdk,hk...->hd...", inside.values, values)
        assert torch.allclose(getattr(after.v_proj, name).double().unflatten(0, (-1, 4)), expected, atol=1e-5)
    columns = before.o_proj.weight.double().unflatten(1, (-1, 8))
    expected = torch.einsum("ohk,hkd->ohd", columns, inside.outputs).flatten(1)
    assert torch.allclose(after.o_proj.weight.double(), expected, atol=1e-5)
    assert (after.head_dim, after.scaling) == (4, 0.5)
    sizes = [(item.in_features, item.out_features) for item in (after.q_proj, after.k_proj, after.o_proj)]
    assert sizes == [
        (item.weight.shape[1], item.weight.shape[0]) for item in (after.q_proj, after.k_proj, after.o_proj)
    ]


def test_while_others_are_dense_a_layer_takes_its_own_turns() -> None:
    model: Any = tiny_llama()
    apply_(model, Plan([planned(resolve(model), "model.layers.1.heads", [0, 3], 4)]))
    with torch.no_grad():
        found = model(input_ids=torch.arange(3, 20)[None]).logits
    assert bool(torch.isfinite(found).all()) and len(model.model.layers[1].self_attn._forward_pre_hooks) == 1


def test_own_turns_leave_turns_of_another_size_alone() -> None:
    take = OwnTurns(torch.tensor([0, 2]), 4)
    turns = torch.arange(4.0)[None], torch.arange(4.0, 8.0)[None]
    _, kwargs = take(nn.Identity(), (), {POSITIONS: turns, "other": 1})
    assert [turn.tolist() for turn in kwargs[POSITIONS]] == [[[0.0, 2.0]], [[4.0, 6.0]]] and kwargs["other"] == 1
    _, again = take(nn.Identity(), (), kwargs)
    assert all(one is two for one, two in zip(again[POSITIONS], kwargs[POSITIONS], strict=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: replace(plan, reduction=Reduction.prune(4, torch.tensor([0, 1]))),
        lambda plan: replace(plan, inside=replace(plan.inside, values=drawn((4, 6, 8), 1))),
        lambda plan: replace(plan, inside=replace(plan.inside, outputs=drawn((4, 8, 4), 1))),
        lambda plan: replace(plan, inside=replace(plan.inside, outputs=plan.inside.outputs * torch.inf)),
        lambda plan: replace(plan, group=replace(plan.group, inside=None)),
    ],
)
def test_plans_that_do_not_fit_change_nothing(change: Callable[[Any], GroupPlan]) -> None:
    model = tiny_llama()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(GrailError):
        apply_(model, Plan([change(planned(resolve(model), "model.layers.0.heads", [0, 1], 4))]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_layout_of_smaller_heads_is_that_of_the_smaller_model() -> None:
    model: Any = tiny_llama()
    layout, pairs = resolve(model), torch.tensor([0, 2])
    apply_(model, Plan([planned(layout, f"model.layers.{index}.heads", [0, 2], 4) for index in range(3)]))
    told = settle_head_size_(model, layout, {"model": pairs})
    found = resolve(model)
    assert told.groups == found.groups and told.weights == found.weights
    assert resized(layout, {}).groups == layout.groups and settle_head_size_(model, found, {}) == found
    smaller = drop_blocks_(model, told, ["model.layers.0"])
    assert smaller.groups == resolve(model).groups


@pytest.mark.parametrize("kind", ["default", "linear", "llama3", "yarn"])
@pytest.mark.parametrize("pairs", [[0, 1, 2, 3, 4], [1, 2, 6, 7]])
def test_pairs_turn_as_fast_as_before(kind: str, pairs: list[int]) -> None:
    turns = {"rope_type": kind, "rope_theta": 5e4, "factor": 4.0, "original_max_position_embeddings": 64}
    turns |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    model = turning(**(turns if kind != "default" else {"rope_type": kind, "rope_theta": 5e4}))
    rotary: Any = model.model.rotary_emb
    chosen = torch.tensor(pairs)
    config = copy.deepcopy(model.config)
    config.rope_parameters, config.head_dim = turns_of(model.config, rotary, chosen, 16), 2 * len(pairs)
    fresh = type(rotary)(config=config)
    assert torch.allclose(fresh.inv_freq, rotary.inv_freq[chosen], rtol=1e-6)
    assert fresh.attention_scaling == pytest.approx(rotary.attention_scaling)
    longer = torch.arange(0, 4000, 37)[None]
    both = torch.cat([chosen, chosen + 8])
    for one, two in zip(fresh(torch.zeros(1), longer), rotary(torch.zeros(1), longer), strict=True):
        assert torch.allclose(one, two[..., both], atol=1e-3)
    trailing = pairs == [0, 1, 2, 3, 4] and kind != "yarn"
    assert (config.rope_parameters["rope_type"] == "longrope") != trailing
    rope = read_rope(fresh, config)
    assert not rope.longer and rope.original is None, "one set of frequencies, for engines too"


@pytest.mark.parametrize(
    "turns",
    [
        {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
        {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0], "long_factor": [2.0]},
        {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        {"rope_type": "unheard-of", "rope_theta": 1e4},
    ],
)
def test_other_positions_are_refused(turns: dict[str, Any]) -> None:
    with pytest.raises(ArchitectureError, match="every pair of dimensions has one speed"):
        check_static(turns)


def test_positions_of_models_that_have_them_pass() -> None:
    for build in (tiny_llama, tiny_qwen2, tiny_bert):
        check_head_size(build(), resolve(build()))
    with pytest.raises(ArchitectureError, match="dynamic"):
        dynamic = turning(rope_type="dynamic", rope_theta=1e4, factor=2.0)
        check_head_size(dynamic, resolve(dynamic))
