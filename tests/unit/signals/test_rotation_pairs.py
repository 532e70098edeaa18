"""What a model loses without each of its rotation pairs, measured on a dense model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.data.batches import PROBE_FRACTION, Batch, make_batches
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Silent
from optimum_grail.signals import Work
from optimum_grail.signals.rotation_pairs import RotationPairs
from optimum_grail.survey.survey import Survey

tiny_biased = tiny("Qwen2ForCausalLM", **WIDE_HEADS)
tiny_one_key = tiny("LlamaForCausalLM", **{**WIDE_HEADS, "num_key_value_heads": 1})


def batches(lengths: tuple[int, ...] = (20,) * 8, size: int = 2) -> tuple[Batch, ...]:
    draw = torch.Generator().manual_seed(1)
    return make_batches([{"input_ids": torch.randint(3, 60, (n,), generator=draw)} for n in lengths], batch_size=size)


def measured(model: Any, data: tuple[Batch, ...]) -> dict[str, Tensor]:
    return dict(
        Survey(model.eval(), resolve(model), data, Silent(), frozenset({"rotation-pairs"})).run().of("rotation-pairs")
    )


def test_every_pair_is_measured_and_the_model_stays() -> None:
    model: Any = tiny_llama()
    before = copy.deepcopy(model.state_dict())
    (damages,) = measured(model, batches()).values()
    assert damages.shape == (4,) and damages.dtype == torch.float64 and bool((damages > 0).all())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("build", [tiny_llama, tiny_biased, tiny_one_key])
def test_it_is_the_divergence_from_the_dense_model(build: Callable[[], nn.Module]) -> None:
    model: Any = build()
    data = batches((20,) * 8, 8)
    damages = measured(model, data)["model"]
    inputs, heads = data[0].inputs["input_ids"], model.config.num_attention_heads
    with torch.no_grad():
        whole = model(input_ids=inputs).logits.log_softmax(-1)
        for layer in model.model.layers:
            for parameter in layer.self_attn.q_proj.parameters():
                parameter.data.view(heads, 8, -1)[:, [1, 5]] = 0
        fewer = model(input_ids=inputs).logits.log_softmax(-1)
    assert float(damages[1]) == pytest.approx(float((whole.exp() * (whole - fewer)).sum(-1).mean()), rel=0.01)


def test_a_silent_pair_costs_nothing() -> None:
    model: Any = tiny_llama()
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data.view(8, 8, -1)[:, [2, 6]] = 0
    damages = measured(model, batches())["model"]
    assert float(damages[2]) < 1e-6 < float(damages[0]) and int(damages.argmin()) == 2


def test_padding_is_left_out() -> None:
    model: Any = tiny_llama()
    damages = measured(model, batches((12, 4, 9, 12), 4))["model"]
    assert bool(torch.isfinite(damages).all()) and bool((damages > 0).all())


def test_models_without_rotary_positions_have_none() -> None:
    assert measured(tiny_bert(), batches()) == {}


def test_it_tells_its_cost() -> None:
    work = Work(forward=80.0, gram=1.0, solve=1.0, groups=6, blocks=3, batches=5, rest=8.0, pairs=32)
    assert RotationPairs().cost(work) == pytest.approx(32 * 88 / PROBE_FRACTION)
    assert RotationPairs().cost(replace(work, pairs=0)) == 0
