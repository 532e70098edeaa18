"""Maps that do not fit say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import nn

from optimum_grail.architectures import ARCHITECTURES, ArchitectureRegistry, register_architecture
from optimum_grail.architectures.bert import BERT, tiny_bert
from optimum_grail.architectures.llama import HEADS, LLAMA, MLP, tiny_llama
from optimum_grail.architectures.resnet import RESNET, tiny_bottleneck
from optimum_grail.core.spec import ArchitectureSpec, Conv, Mlp
from optimum_grail.errors import ArchitectureError, ConfigError, UnknownNameError
from optimum_grail.models.resolve import expand, resolve


def test_grouped_query_attention_in_units_of_key_value_heads() -> None:
    group = resolve(tiny_llama()).group("model.layers.1.heads")
    assert group.units == 4
    assert [port.span for port in group.producers] == [16, 8, 8] and group.consumer.span == 16
    assert group.fields == (("num_attention_heads", 2), ("num_key_value_heads", 1))
    assert (group.owner, group.layer, group.tie) == ("model", "1", "model.layers/heads/4")


def test_bottleneck_groups_come_by_stage_and_share_a_tie() -> None:
    first, second = resolve(tiny_bottleneck()).of_block("resnet.encoder.stages.1.layers.0")
    assert (first.stage, first.stream, second.stage, second.stream) == (0, None, 1, "activation")
    assert first.tie == second.tie and first.layer == "1.0"
    assert first.norm is not None and first.norm.endswith("layer.1.normalization")


def test_resolving_needs_no_values() -> None:
    with torch.device("meta"):
        from transformers import LlamaConfig, LlamaForCausalLM

        model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=2))
    layout = resolve(model)
    assert layout.widths["model.layers.1.mlp"] == 11008
    assert layout.block_parameters == 2 * 202_383_360


def test_unknown_families_name_the_nearest() -> None:
    from transformers import MambaConfig, MambaModel

    with pytest.raises(UnknownNameError, match=r"'mamba'.*register_architecture"):
        resolve(MambaModel(MambaConfig(num_hidden_layers=1, hidden_size=8, vocab_size=8)))
    with pytest.raises(UnknownNameError, match="Did you mean 'llama'"):
        ARCHITECTURES.get("llama3")
    with pytest.raises(ArchitectureError, match="spec="):
        resolve(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (replace(LLAMA, blocks=("blocks.*",)), "blocks"),
        (replace(LLAMA, groups=(replace(MLP, consume="mlp.c_proj"),)), r"layers\.0\.mlp\.c_proj"),
        (replace(LLAMA, groups=(replace(MLP, produce=("self_attn.q_proj",)),)), "width 64, expected 48"),
        (replace(LLAMA, groups=(replace(MLP, produce=("input_layernorm",)),)), "LlamaRMSNorm"),
        (replace(LLAMA, groups=(replace(HEADS, head_dim="self_attn.size"),)), r"self_attn\.size"),
        (replace(LLAMA, groups=(replace(HEADS, head_dim="mlp.intermediate_size"),)), "multiple of 48"),
        (replace(LLAMA, groups=(MLP, MLP)), "two groups called"),
        (replace(LLAMA, groups=(MLP, replace(MLP, name="again"))), "both own elements"),
        (replace(LLAMA, groups=(replace(MLP, block_class="OtherLayer"),)), "LlamaDecoderLayer.*OtherLayer"),
        (replace(LLAMA, groups=()), "no group at all"),
    ],
)
def test_maps_that_do_not_fit(spec: ArchitectureSpec, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        resolve(tiny_llama(), spec)


def test_grouped_convolutions_and_wrong_norms_are_refused() -> None:
    model = tiny_bottleneck()
    layer = model.resnet.encoder.stages[0].layers[0].layer
    layer[0].convolution = nn.Conv2d(8, 8, 1, groups=2)
    with pytest.raises(ArchitectureError, match="groups=2"):
        resolve(model)
    conv = RESNET.groups[2]
    assert isinstance(conv, Conv)
    with pytest.raises(ArchitectureError, match="is a BatchNorm"):
        resolve(tiny_bottleneck(), replace(RESNET, groups=(replace(conv, consume_norm="activation"),)))


def test_shared_weights_are_refused() -> None:
    model = tiny_bert()
    model.encoder.layer[1].output.dense.weight = model.encoder.layer[0].output.dense.weight
    with pytest.raises(ArchitectureError, match="shared with"):
        resolve(model)


def test_patterns() -> None:
    model = tiny_bottleneck()
    assert expand(model.resnet, "encoder.stages.*.layers.*")[2] == ("encoder.stages.1.layers.0", "1.0")
    assert expand(model.resnet, "encoder.stages.*.blocks.*") == []


def test_registering_a_family() -> None:
    registry = ArchitectureRegistry("optimum_grail.architectures")
    spec = ArchitectureSpec(("mine",), ("h.*",), (Mlp(("a",), "b", "@block"),))
    assert registry.add_spec(spec) is registry.get("mine")
    assert {"llama", "mistral", "qwen2", "bert", "vit", "resnet", "mine"} <= set(registry.names())
    assert BERT in registry.specs()
    with pytest.raises(ConfigError, match="taken"):
        registry.add_spec(replace(spec, model_types=("bert",)))
    with pytest.raises(ConfigError, match="model_types"):
        register_architecture(replace(spec, model_types=()))


def test_chains_end_at_their_container_and_come_in_order(maps: Mapping[str, ArchitectureSpec]) -> None:
    layout = resolve(maps["t5"].example(), maps["t5"])
    assert [stack.name for stack in layout.stacks] == [
        "encoder.block.0.layer",
        "encoder.block.1.layer",
        "decoder.block.0.layer",
        "decoder.block.1.layer",
    ]
    assert layout.stacks[2].after == ("encoder.block.0.layer", "encoder.block.1.layer")
    (owner,) = layout.owners
    assert owner.layers[2] == "decoder.block.0.layer.2"
    assert [len(layout.of_stack(stack)) for stack in layout.stacks] == [1, 1, 1, 1]


def test_groups_of_one_pattern_only(maps: Mapping[str, ArchitectureSpec]) -> None:
    mlp = maps["t5"].groups[0]
    assert isinstance(mlp, Mlp)
    spec = replace(maps["t5"], groups=(replace(mlp, within="decoder.block.*.layer.2"),))
    assert list(resolve(maps["t5"].example(), spec).widths) == [
        "decoder.block.0.layer.2.mlp",
        "decoder.block.1.layer.2.mlp",
    ]


def test_one_field_cannot_say_how_long_several_chains_are(maps: Mapping[str, ArchitectureSpec]) -> None:
    with pytest.raises(ArchitectureError, match="4 chains of blocks and one depth_field"):
        resolve(maps["t5"].example(), replace(maps["t5"], depth_field="num_layers"))


class Towers(nn.Module):
    """Two sub-models with configs, in the other order than they run."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = tiny_llama().model, tiny_bert()


def towers(llama_after: tuple[str, ...], bert_after: tuple[str, ...] = ()) -> list[tuple[str, tuple[str, ...]]]:
    """Name and ``after`` of each stack."""
    maps = (
        ARCHITECTURES.serving(replace(LLAMA, after=llama_after)),
        ARCHITECTURES.serving(replace(BERT, after=bert_after)),
    )
    with maps[0], maps[1]:
        return [(stack.name, stack.after) for stack in resolve(Towers()).stacks]


def test_stacks_come_in_the_order_that_their_maps_tell() -> None:
    assert towers(()) == [("decoder", ()), ("encoder", ())]
    assert towers(("encoder",)) == [("encoder", ()), ("decoder", ("encoder",))]
    assert towers(("elsewhere",)) == [("decoder", ()), ("encoder", ())]
    with pytest.raises(ArchitectureError, match="each runs after the other"):
        towers(("encoder",), ("decoder",))
