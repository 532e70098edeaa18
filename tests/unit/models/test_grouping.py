"""From declarations to groups: parts of fused projections, channelwise modules, factors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from optimum_grail.architectures._tiny import tiny
from optimum_grail.architectures.falcon import SIZES as FALCON_SIZES
from optimum_grail.architectures.falcon import tiny_multi_query_falcon
from optimum_grail.architectures.gemma import tiny_one_key_gemma3
from optimum_grail.architectures.gpt_neox import GPT_NEOX, tiny_sequential_gpt_neox
from optimum_grail.architectures.granite import GRANITE
from optimum_grail.core.spec import ArchitectureSpec, Conv, Strip
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.resolve import resolve
from optimum_grail.streams.problems import scale_behind

Maps = Mapping[str, ArchitectureSpec]
Change = Callable[..., ArchitectureSpec]
NEOX = (GPT_NEOX.example, tiny_sequential_gpt_neox)


def test_parts_of_one_projection_lie_one_behind_the_other(maps: Maps) -> None:
    heads, mlp = resolve(maps["phi3"].example(), maps["phi3"]).of_block("model.layers.0")
    assert [(port.offset, port.span) for port in heads.producers] == [(0, 16), (32, 8), (48, 8)]
    assert [(port.offset, port.span) for port in mlp.producers] == [(0, 1), (48, 1)]
    assert heads.units == 2 and heads.cached == 16


def test_interleaved_parts_are_one_strip(maps: Maps) -> None:
    (port,) = resolve(maps["neox"].example(), maps["neox"]).groups[0].producers
    assert (port.offset, port.span) == (0, 24)


def test_one_part_of_equal_ones(maps: Maps, change: Change) -> None:
    spec = change("phi3", 1, produce=(Strip("mlp.gate_up_proj", 1, 2),))
    (port,) = resolve(maps["phi3"].example(), spec).groups[1].producers
    assert (port.offset, port.span) == (48, 1)


def test_channelwise_modules_are_producers_too(maps: Maps) -> None:
    heads = resolve(maps["olmo2"].example(), maps["olmo2"]).groups[0]
    spans = {port.module.rpartition(".")[2]: port.span for port in heads.producers}
    assert spans == {"q_proj": 16, "k_proj": 8, "v_proj": 8, "q_norm": 16, "k_norm": 8}
    mlp = resolve(maps["segformer"].example(), maps["segformer"]).groups[0]
    assert mlp.cost == 8 + 1 + 9 + 1 + 8, "rows and bias of fc1, taps and bias of the depthwise filter, columns of fc2"


def test_factors_that_a_block_lacks_are_none(maps: Maps) -> None:
    spec = maps["convnext"]
    model = spec.example()
    factors = [group.factor for group in resolve(model, spec).groups]
    assert factors[0] == "convnext.encoder.stages.0.layers.0.layer_scale_parameter"
    model.convnext.encoder.stages[0].layers[0].layer_scale_parameter = None
    assert resolve(model, spec).groups[0].factor is None


def test_a_factor_may_be_one_number() -> None:
    model = GRANITE.example()
    group = resolve(model).groups[0]
    assert group.factor == "model.layers.0.residual_multiplier"
    assert scale_behind(model, group).tolist() == pytest.approx([0.4] * 32)
    model.model.layers[0].residual_multiplier = 0.0
    with pytest.raises(ArchitectureError, match="one number but zero; found float"):
        resolve(model)


def test_declarations_that_hold_for_some_configs_only() -> None:
    streams = [[group.stream for group in resolve(build()).of_block("gpt_neox.layers.0")] for build in NEOX]
    assert streams == [["@block", "@block"], ["post_attention_layernorm", "@block"]]
    old = tiny("FalconForCausalLM", **FALCON_SIZES, alibi=True)()
    assert {group.kind for group in resolve(old).groups} == {"mlp"}


def test_query_heads_are_the_units_where_they_share_one_key() -> None:
    for build, module, size in ((tiny_one_key_gemma3, "q_proj", 8), (tiny_multi_query_falcon, "query_key_value", 4)):
        group = resolve(build()).groups[0]
        (port,) = group.producers
        assert group.units == 8 and (port.offset, port.span, group.consumer.span) == (0, size, size)
        assert port.module.endswith(module) and group.cost == 2 * 32 * size and not group.cached
        assert [count for _, count in group.attributes] == [1]


CASES: list[tuple[str, int, dict[str, Any], str]] = [
    ("gpt2", 0, {"key": Strip("attn.c_attn", 1, 4)}, "contradict each other"),
    ("gpt2", 0, {"key": "attn.c_proj", "value": "attn.c_proj"}, "both own elements of transformer.h.0.attn.c_proj"),
    ("phi3", 1, {"produce": (Strip("mlp.gate_up_proj", 0, 2, interleaved=True),)}, "without the others"),
    ("phi3", 1, {"produce": (Strip("mlp.gate_up_proj", 2, 2),)}, "contradict each other"),
    ("phi3", 1, {"produce": (Strip("mlp.gate_up_proj", 0, 3),)}, "width 96, expected 144"),
    ("segformer", 0, {"channelwise": ("mlp.fc1",)}, "mlp.fc1 channelwise, but it is a Linear"),
    ("segformer", 0, {"channelwise": ("layernorm_before",), "mixes": True}, "width 8, expected 16"),
    ("olmo2", 0, {"mixes": False}, r"self_attn.q_norm \(Olmo2RMSNorm\) normalises over all units.*mixes=True"),
    ("convnext", 0, {"factor": "pwconv1.bias"}, "expecting a parameter of 8 numbers"),
]


@pytest.mark.parametrize(("name", "place", "fields", "message"), CASES)
def test_declarations_that_do_not_fit(
    name: str, place: int, fields: Mapping[str, Any], message: str, maps: Maps, change: Change
) -> None:
    with pytest.raises(ArchitectureError, match=message):
        resolve(maps[name].example(), change(name, place, **fields))


def test_the_remedy_for_a_depthwise_convolution_names_channelwise(maps: Maps) -> None:
    spec = maps["convnext"]
    with pytest.raises(ArchitectureError, match=r"dwconv.*channelwise"):
        resolve(spec.example(), replace(spec, groups=(Conv("dwconv", "pwconv1", None),)))
