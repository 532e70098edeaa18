"""What attention loses without each of its rotation pairs, measured on a dense model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from optimum_grail.architectures._tiny import WIDE_HEADS, tiny
from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.data.batches import Batch, make_batches
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Silent
from optimum_grail.survey.survey import Survey

tiny_sliding = tiny("Qwen2ForCausalLM", **WIDE_HEADS, use_sliding_window=True, sliding_window=6, max_window_layers=0)


def batches(lengths: tuple[int, ...] = (20,) * 8, size: int = 2) -> tuple[Batch, ...]:
    draw = torch.Generator().manual_seed(1)
    return make_batches([{"input_ids": torch.randint(3, 60, (n,), generator=draw)} for n in lengths], batch_size=size)


def measured(model: Any, data: tuple[Batch, ...]) -> dict[str, Tensor]:
    return dict(
        Survey(model.eval(), resolve(model), data, Silent(), frozenset({"rotation-pairs"})).run().of("rotation-pairs")
    )


def test_every_attention_is_measured_and_the_model_stays() -> None:
    model: Any = tiny_llama()
    before = copy.deepcopy(model.state_dict())
    found = measured(model, batches())
    assert set(found) == {f"model.layers.{index}.heads" for index in range(3)}
    for errors in found.values():
        assert errors.shape == (4, 4) and errors.dtype == torch.float64
        assert bool((torch.linalg.eigvalsh(errors) > -1e-9).all())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_a_silent_pair_costs_nothing() -> None:
    model: Any = tiny_llama()
    model.model.layers[1].self_attn.q_proj.weight.data.view(8, 8, -1)[:, [2, 6]] = 0
    found = measured(model, batches())["model.layers.1.heads"]
    assert float(found[2].abs().max()) < 1e-12 < float(found[0, 0])


def test_it_is_the_divergence_of_attention() -> None:
    """A weak pair set to zero: half its entry is the mean divergence of all heads' attention, summed over heads."""
    model: Any = tiny_llama()
    model.config._attn_implementation = "eager"
    attention = model.model.layers[0].self_attn
    attention.q_proj.weight.data.view(8, 8, -1)[:, [1, 5]] *= 0.05
    data = batches()
    errors = measured(model, data)["model.layers.0.heads"]
    inputs = data[0].inputs["input_ids"]
    with torch.no_grad():
        whole = model(input_ids=inputs, output_attentions=True).attentions[0]
        attention.q_proj.weight.data.view(8, 8, -1)[:, [1, 5]] = 0
        fewer = model(input_ids=inputs, output_attentions=True).attentions[0]
    gap = (whole * (whole.clamp(min=1e-30).log() - fewer.clamp(min=1e-30).log())).sum(-1)  # [B, heads, T]
    told = float(errors[1, 1]) / 2
    assert told == pytest.approx(float(gap.sum(1).mean()), rel=0.05)


def test_padding_is_left_out() -> None:
    model: Any = tiny_llama()
    alone, padded = measured(model, batches((12,), 1)), measured(model, batches((12, 4), 2))
    longer = measured(model, batches((12, 12), 2))
    name = "model.layers.0.heads"
    assert bool(torch.isfinite(padded[name]).all())
    assert not torch.allclose(padded[name], longer[name]) and alone[name].shape == padded[name].shape


def test_what_a_window_hides_is_left_out() -> None:
    """Tokens beyond the window change nothing of the queries that cannot see them."""
    model: Any = tiny_sliding()
    assert model.config.layer_types[0] == "sliding_attention"
    found = measured(model, batches((40, 40), 1))
    model.config.layer_types = ["full_attention"] * len(model.config.layer_types)
    name = "model.layers.0.heads"
    assert not torch.allclose(found[name], measured(model, batches((40, 40), 1))[name])


def test_models_without_rotary_positions_have_none() -> None:
    assert measured(tiny_bert(), batches()) == {}
