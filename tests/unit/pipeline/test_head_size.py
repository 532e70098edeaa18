"""Heads that lose dimensions inside: exact where nothing is lost, of the stock class, the same however it is run."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from optimum_grail.adapters import convert_adapter
from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.architectures.gpt2 import tiny_gpt2
from optimum_grail.architectures.llama import tiny_llama, tiny_mistral
from optimum_grail.compensators import COMPENSATORS
from optimum_grail.compressor import GrailCompressor
from optimum_grail.core.head_size import HeadReduction
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.reduction import Reduction
from optimum_grail.errors import ArchitectureError, BudgetError, CheckpointError, GrailError
from optimum_grail.models.resolve import resolve
from optimum_grail.models.rotary import settle_head_size_
from optimum_grail.models.surgery import apply_
from optimum_grail.report.heads import head_lines
from optimum_grail.report.progress import Silent

IDS = [{"input_ids": torch.randint(3, 60, (24,), generator=torch.Generator().manual_seed(i))} for i in range(12)]
PROBE = torch.randint(3, 60, (2, 40), generator=torch.Generator().manual_seed(99))
QUICK: dict[str, Any] = {"allocation": "uniform", "batch_size": 4}
SCALED = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0}
SCALED |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
tiny_qwen2 = tiny("Qwen2ForCausalLM", **WIDE_HEADS)
tiny_qwen3 = tiny("Qwen3ForCausalLM", **WIDE_HEADS)
tiny_scaled = tiny("LlamaForCausalLM", **WIDE_HEADS, rope_parameters=SCALED)
tiny_one_key = tiny("LlamaForCausalLM", **{**WIDE_HEADS, "num_key_value_heads": 1})
FAMILIES = [tiny_llama, tiny_mistral, tiny_qwen2, tiny_scaled, tiny_one_key]


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model.eval()(input_ids=PROBE).logits


def shaken(build: Callable[[], nn.Module]) -> Any:
    """The model with biases that are not zero, where it has some."""
    model, draw = build().eval(), torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data = torch.randn(parameter.shape, generator=draw) * 0.3
    return model


def cut(model: Any, pairs: Tensor, whole_values: bool = True) -> None:
    """Let all heads lose the other pairs, and of the values the dimensions of those."""
    layout = resolve(model)
    items = []
    for group in layout.groups:
        if group.inside is not None:
            size, heads = group.inside.size, group.consumer.span * group.units // group.inside.size
            rows = model.get_submodule(group.inside.value).weight.shape[0] // size
            kept = torch.cat([pairs, pairs + size // 2])
            pick = torch.eye(size, dtype=torch.float64)[kept]
            inside = HeadReduction(pairs, pick.expand(rows, -1, -1), pick.T.expand(heads, -1, -1))
            items.append(GroupPlan(group, Reduction.keep_all(group.units), None, inside=inside))
    apply_(model, Plan(items))
    settle_head_size_(model, layout, {group.owner: pairs for group in layout.groups if group.inside is not None})


def silence_(model: Any, pairs: Tensor) -> None:
    """Let queries, keys and values be zero in all dimensions but those of ``pairs``."""
    for group in resolve(model).groups:
        if group.inside is not None:
            size = group.inside.size
            live = torch.zeros(size).index_fill(0, torch.cat([pairs, pairs + size // 2]), 1.0)
            for path in (group.inside.query, group.inside.key, group.inside.value):
                for _, parameter in model.get_submodule(path).named_parameters():
                    mask = live.repeat(len(parameter) // size)
                    parameter.data = parameter.data * mask.view(-1, *[1] * (parameter.dim() - 1))


@pytest.mark.parametrize("build", FAMILIES)
@pytest.mark.parametrize("kept", [[0, 1, 2, 3], [0, 1], [1, 3], [0, 2, 3]])
def test_pairs_without_energy_go_without_a_trace(
    build: Callable[[], nn.Module], kept: list[int], tmp_path: Path
) -> None:
    model, pairs = shaken(build), torch.tensor(kept)
    silence_(model, pairs)
    expected = logits(model)
    cut(model, pairs)
    assert torch.allclose(logits(model), expected, atol=1e-5 * float(expected.abs().max()))
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(model)) and again.config.head_dim == 2 * len(kept)
    assert not any(module._forward_pre_hooks for module in model.modules())
    kind = again.config.rope_parameters["rope_type"]
    assert (kind == "longrope") == (kept != list(range(len(kept))))


@pytest.mark.parametrize("build", [tiny_qwen2, tiny_one_key])
def test_a_run_makes_a_stock_model(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    model: Any = shaken(build)
    dense = copy.deepcopy(model)
    compressor = GrailCompressor(model, {**QUICK, "head_dim_sparsity": 0.25})
    compressor.compress(IDS, tmp_path / "out")
    report = compressor.report
    assert report.standalone and report.head_size == (8, 6)
    per_token = 3 * 2 * (model.config.num_key_value_heads) * 4
    assert report.cache_bytes == (8 * per_token, 6 * per_token)
    assert head_lines(report)[0] == "inside heads: 8 -> 6 dimensions" and "bytes" in head_lines(report)[1]
    plan = json.loads((tmp_path / "out" / "grail_plan.json").read_text())["groups"]["model.layers.1.heads"]
    assert plan["head_size"] == [8, 6] and len(plan["pairs"]) == 3
    inside = sum(parameter.numel() for parameter in model.model.layers.parameters())
    assert report.block_parameters_after == inside < report.block_parameters_before
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(again) is type(dense) and torch.equal(logits(again), logits(model))
    cached = again.generate(PROBE, max_new_tokens=8, do_sample=False, use_cache=True)
    assert torch.equal(cached, again.generate(PROBE, max_new_tokens=8, do_sample=False, use_cache=False))
    assert any("64, 80, 96, 112 or 128" in warning for warning in report.warnings)


def test_values_of_few_dimensions_and_silent_pairs_are_found() -> None:
    """What a planted model does not use goes, and nothing is lost: the pairs are found, the values are turned."""
    model: Any = shaken(tiny_llama)
    for layer in model.model.layers:
        attention = layer.self_attn
        values = attention.v_proj.weight.data.view(4, 8, -1)
        turn = torch.linalg.qr(torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(3))).Q[:, :4]
        attention.v_proj.weight.data = (turn.mT @ (turn @ values)).flatten(0, 1)
        for weight in (attention.q_proj.weight, attention.k_proj.weight):
            weight.data.view(-1, 8, weight.shape[1])[:, [1, 5, 2, 6]] = 0
    expected = logits(model)
    compressor = GrailCompressor(model, {**QUICK, "head_dim_sparsity": 0.5, "compensator": "none"})
    compressor.compress(IDS)
    assert model.config.rope_parameters["rope_type"] == "longrope"
    assert torch.allclose(logits(model), expected, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("name", COMPENSATORS.names())
def test_every_compensator_works_on_it(name: str) -> None:
    model: Any = shaken(tiny_qwen2)
    dense = logits(model)
    config = {**QUICK, "selector": "wanda", "compensator": name, "head_dim_sparsity": 0.25, "ffn_sparsity": 0.25}
    compressor = GrailCompressor(model, config)
    compressor.compress(IDS)
    assert model.config.head_dim == 6 and bool(torch.isfinite(logits(model)).all())
    assert float((logits(model) - dense).square().mean()) < 4 * float(dense.var())


def test_compensation_gives_back_what_dimensions_take() -> None:
    losses, seen = {}, torch.stack([sample["input_ids"] for sample in IDS])
    for name in ("none", "grail", "grail-plus"):
        model: Any = shaken(tiny_llama)
        with torch.no_grad():
            dense = model(seen).logits
            GrailCompressor(model, {**QUICK, "head_dim_sparsity": 0.25, "compensator": name}).compress(IDS)
            losses[name] = float((model(seen).logits - dense).square().mean())
    assert losses["grail-plus"] < losses["none"] and losses["grail"] < losses["none"]


@pytest.mark.parametrize(
    "more",
    [
        {"head_sparsity": 0.25, "compensator": "grail", "selector": "magnitude"},
        {"ffn_sparsity": 0.4, "within_block": "joint", "refit": "producers"},
        {"selector": "folding", "head_sparsity": 0.25},
    ],
)
def test_it_goes_with_other_cuts(more: dict[str, Any], tmp_path: Path) -> None:
    model: Any = shaken(tiny_mistral)
    compressor = GrailCompressor(model, {**QUICK, "head_dim_sparsity": 0.25, **more})
    compressor.compress(IDS, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert compressor.report.standalone and torch.equal(logits(again), logits(model))
    assert model.config.head_dim == 6
    assert (model.config.num_key_value_heads < 4) == ("head_sparsity" in more)


class _Stopped(Exception):
    """Ends a run as a kill would."""


class _Stop(Silent):
    """Ends a run when so many groups have been compressed."""

    def __init__(self, after: int) -> None:
        self.left, self.running = after, ""

    def start(self, total: int, description: str) -> None:
        self.running = description

    def update(self, advance: int, description: str) -> None:
        self.left -= self.running == "compressing"
        if self.left < 0:
            raise _Stopped


@pytest.mark.parametrize("after", [3])
def test_an_interrupted_run_goes_on_to_the_same_bits(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimum_grail.state.budget.SHARE", 1e9)
    config = {**QUICK, "head_dim_sparsity": 0.25, "ffn_sparsity": 0.25}
    whole, parts = shaken(tiny_qwen2), shaken(tiny_qwen2)
    GrailCompressor(whole, config).compress(IDS, tmp_path / "whole")
    with pytest.raises(_Stopped):
        GrailCompressor(parts, config).compress(IDS, tmp_path / "parts", progress=_Stop(after))
    with pytest.raises(CheckpointError, match="half compressed"):
        GrailCompressor(parts, config)
    resumed = shaken(tiny_qwen2)
    GrailCompressor(resumed, config).compress(IDS, tmp_path / "parts", resume=True)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert torch.equal(logits(whole), logits(resumed))


def test_weights_on_disk_change_nothing(tmp_path: Path) -> None:
    shaken(tiny_llama).save_pretrained(tmp_path / "dense", max_shard_size="20KB")
    for low in (True, False):
        config = {**QUICK, "head_dim_sparsity": 0.25, "low_memory": low}
        GrailCompressor.from_pretrained(tmp_path / "dense", config, dtype=torch.float32).compress(
            IDS, tmp_path / f"out-{low}"
        )
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / f"out-{low}") for low in (True, False)]
    assert torch.equal(*map(logits, models)) and models[0].config.head_dim == 6


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (tiny_qwen3, ArchitectureError, "norms of queries and keys"),
        (tiny_gpt2, ArchitectureError, "rotary positions"),
    ],
)
def test_other_heads_are_refused_with_the_reason(
    build: Callable[[], nn.Module], error: type[GrailError], message: str
) -> None:
    model = build()
    with pytest.raises(error, match=message):
        GrailCompressor(model, {**QUICK, "head_dim_sparsity": 0.25}).compress(IDS)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"head_dim_sparsity": 0.05}, BudgetError, "they go in pairs"),
        ({"head_dim_sparsity": 0.25, "allocation": "uniform:protect=heads"}, GrailError, "protect"),
        ({"head_dim_sparsity": 0.25, "sparsity": 0.3}, GrailError, "contradict"),
    ],
)
def test_requests_that_cannot_be_met(config: dict[str, Any], error: type[GrailError], message: str) -> None:
    with pytest.raises(error, match=message):
        GrailCompressor(tiny_llama(), {**QUICK, **config}).compress(IDS)


def test_positions_that_change_with_the_text_are_refused() -> None:
    turns = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, rope_parameters=turns))
    with pytest.raises(ArchitectureError, match="dynamic"):
        GrailCompressor(model, {**QUICK, "head_dim_sparsity": 0.25}).compress(IDS)


def test_a_plan_of_other_heads_is_refused() -> None:
    model = tiny_llama()
    group = resolve(model).group("model.layers.0.heads")
    good = HeadReduction(torch.tensor([0]), torch.zeros(4, 2, 8), torch.zeros(8, 8, 2))
    for inside in (
        replace(good, values=torch.zeros(3, 2, 8)),
        replace(good, outputs=torch.zeros(8, 2, 8)),
        replace(good, values=torch.full((4, 2, 8), float("nan"))),
    ):
        item = GroupPlan(group, Reduction.keep_all(group.units), None, inside=inside)
        with pytest.raises(GrailError):
            apply_(model, Plan([item]))
    assert model.config.head_dim == model.model.layers[0].self_attn.head_dim == 8


def test_adapters_of_the_dense_model_are_refused(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    shaken(tiny_llama).save_pretrained(tmp_path / "dense")
    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
    get_peft_model(dense, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    compressor = GrailCompressor.from_pretrained(tmp_path / "dense", {**QUICK, "head_dim_sparsity": 0.25})
    compressor.compress(IDS, tmp_path / "small")
    with pytest.raises(ArchitectureError, match="6 of 8 dimensions"):
        convert_adapter(tmp_path / "adapter", tmp_path / "out", tmp_path / "small")
