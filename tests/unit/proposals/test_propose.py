"""Proposals for models without a map, and for families whose map is not looked at."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from optimum_grail import check_map
from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.core.spec import Conv, Heads, Mlp, Strip
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.resolve import resolve
from optimum_grail.proposals.propose import propose

from .conftest import Attending, BasicBlock, Gated, Inverted, Mixer, Net, Tangled

TOKENS, IMAGES = {"x": torch.randn(3, 6, 8)}, {"x": torch.randn(3, 8, 6, 6)}
FAMILIES = ("llama", "bert", "gpt2", "phi3", "gpt_neox", "gemma2", "resnet", "convnext")
EXAMPLE = Path(__file__).parents[3] / "examples" / "custom_module.py"


@cache
def proposed(name):
    """The proposal for the example of a registered family, made once."""
    return propose(ARCHITECTURES.get(name).example())


def groups_of(model, spec=None):
    """Kind, units, consumer and producers of every group."""
    return {
        (group.kind, group.units, group.consumer, frozenset(group.producers), group.stream)
        for group in resolve(model, spec).groups
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_whose_map_is_hidden(name):
    model = ARCHITECTURES.get(name).example()
    proposal = proposed(name)
    found = set().union(*(groups_of(model, spec) for spec in proposal.specs))
    assert found == groups_of(model)


def test_an_encoder_and_a_decoder_of_one_type():
    model = ARCHITECTURES.get("bart").example()
    spec = propose(model).spec
    assert spec.blocks == ("encoder.layers.*", "decoder.layers.*")
    assert [(group.name, group.within) for group in spec.groups if isinstance(group, Heads)] == [
        ("heads", "encoder.layers.*"),
        ("heads", "decoder.layers.*"),
        ("heads_2", "decoder.layers.*"),
    ]
    assert groups_of(model, spec) == groups_of(model)


def test_words_of_the_config():
    heads, mlp = proposed("llama").spec.groups
    assert (heads.query_field, heads.key_value_field, mlp.field) == (
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
    )
    assert heads.accepts({}, {}) and mlp.accepts({}, {})
    assert not proposed("bert").spec.groups[0].accepts({}, {}), "size follows the number"


def test_a_basic_block():
    assert propose(Net(BasicBlock(8), BasicBlock(8)), IMAGES).spec.groups == (
        Conv("conv1", "conv2", None, channelwise=("bn1",), consume_norm="bn2", stage=0),
    ), "the sum is nowhere seen before the last activation"


def test_an_inverted_residual():
    (group,) = propose(Net(Inverted(8), Inverted(8)), IMAGES).spec.groups
    assert (group.produce, group.consume, group.consume_norm) == ("conv.0.0", "conv.2", "conv.3")
    assert group.channelwise == ("conv.0.1", "conv.1.0", "conv.1.1")
    assert group.stream == "@block"


def test_a_mixer():
    one, other = propose(Net(Mixer(6, 8), Mixer(6, 8)), TOKENS).spec.groups
    assert (one.produce, one.consume) == (("tokens.0",), "tokens.2")
    assert (other.produce, other.consume, other.stream) == (("channels.0",), "channels.2", "@block")
    assert one.name != other.name and one.field != other.field


def test_the_resnet_of_the_example():
    module = importlib.util.spec_from_file_location("custom_module", EXAMPLE)
    code = importlib.util.module_from_spec(module)
    module.loader.exec_module(code)
    net = code.ResNet().eval()
    spec = propose(net, {"images": torch.randn(2, 3, 32, 32)}).spec
    assert spec.blocks == code.SPEC.blocks
    found, known = (
        {(group.consumer, group.producers, group.norm) for group in resolve(net, each).groups}
        for each in (spec, code.SPEC)
    )
    assert found == known


@pytest.mark.parametrize("interleaved", [False, True])
def test_halves_of_one_projection(interleaved):
    (group,) = propose(Net(Gated(8, interleaved, 0.5), Gated(8, interleaved, 0.5)), TOKENS).spec.groups
    assert group.produce == tuple(Strip("both", part, 2, interleaved) for part in range(2))
    assert (group.stream, group.factor) == ("@block", "scale")


@pytest.mark.parametrize("keys", [1, 2, 4])
def test_shared_keys(keys):
    model = Net(Attending(8, 4, keys, 6), Attending(8, 4, keys, 6))
    proposal = propose(model, TOKENS)
    (group,) = proposal.spec.groups
    assert isinstance(group, Heads) and group.query == Strip("qkv", 0, 3) and group.head_dim == "head_dim"
    assert group.shared == (() if keys == 1 else None)
    assert resolve(model, proposal.spec).groups[0].units == (4 if keys == 1 else keys)
    report = check_map(replace(proposal.spec, example=lambda: model), TOKENS)
    assert report.groups == {"heads": 2}


def test_what_is_left_out_and_why():
    proposal = propose(Net(Tangled(8), Tangled(8)), TOKENS)
    assert proposal.specs == ()
    reasons = {item.where: item.why for item in proposal.left_out}
    assert "side" in reasons["blocks.*.down"]
    with pytest.raises(ArchitectureError, match=r"0 maps are proposed for Net, expected one.*down"):
        _ = proposal.spec


def test_no_blocks():
    proposal = propose(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), {"input": torch.randn(2, 4)})
    assert [item.why for item in proposal.left_out] == ["no list of modules runs one after the other"]


def test_a_first_block_without_a_residual_sum():
    """Its class's other blocks show the stream."""

    class Block(nn.Module):
        def __init__(self, residual):
            super().__init__()
            self.up, self.down, self.residual = nn.Linear(8, 12), nn.Linear(12, 8), residual

        def forward(self, x):
            return self.down(torch.relu(self.up(x))) + (x if self.residual else 0)

    (group,) = propose(Net(Block(False), Block(True), Block(True)), TOKENS).spec.groups
    assert group.stream == "@block"


def test_a_first_block_that_lacks_the_layer_before_the_consumer():
    """As in EfficientNet, whose first block does not expand; the others share the map."""

    class Block(nn.Module):
        def __init__(self, expands):
            super().__init__()
            self.expand = nn.Conv2d(8, 12, 1, bias=False) if expands else None
            width = 12 if expands else 8
            self.filter = nn.Conv2d(width, width, 3, padding=1, groups=width)
            self.reduce, self.norm = nn.Conv2d(width, 8, 1, bias=False), nn.BatchNorm2d(8)

        def forward(self, x):
            inner = x if self.expand is None else torch.relu(self.expand(x))
            return x + self.norm(self.reduce(torch.relu(self.filter(inner))))

    spec = propose(Net(Block(False), Block(True), Block(True)), IMAGES).spec
    assert spec.blocks == ("blocks.1", "blocks.2")
    (group,) = spec.groups
    assert isinstance(group, Conv)
    assert (group.produce, group.channelwise, group.consume) == ("expand", ("filter",), "reduce")


def test_units_that_a_rectifier_silences_do_not_hide_the_others():
    """Some channels of many models never move, trained or not."""
    torch.manual_seed(0)
    model = Net(Inverted(8), Inverted(8))
    for block, silent in zip(model.blocks, (2, 5), strict=True):
        norm = block.conv[1][1]
        norm.weight.data[:silent], norm.bias.data[:silent] = 1e-3, -9.0
    (group,) = propose(model, IMAGES).spec.groups
    assert isinstance(group, Conv)
    assert group.channelwise == ("conv.0.1", "conv.1.0", "conv.1.1")


def test_two_classes_of_blocks():
    spec = propose(Net(Gated(8, False, 0.5), Attending(8, 4, 2, 6), Gated(8, False, 0.5)), TOKENS).spec
    assert spec.blocks == ("blocks.*",)
    assert {group.block_class: type(group) for group in spec.groups} == {"Gated": Mlp, "Attending": Heads}


def test_blocks_of_which_some_cannot_shrink():
    model = Net(Gated(8, False, 0.5), Tangled(8), Gated(8, False, 0.5))
    spec = propose(model, TOKENS).spec
    assert spec.blocks == ("blocks.0", "blocks.2")
    assert [group.block for group in resolve(model, spec).groups] == ["blocks.0", "blocks.2"]


def test_the_model_is_left_alone():
    model = Net(Mixer(6, 8), Mixer(6, 8)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    propose(model, TOKENS)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_inputs_that_nothing_tells_or_that_do_not_fit():
    with pytest.raises(ArchitectureError, match="Pass a batch of two or more samples"):
        propose(Net(Mixer(6, 8), Mixer(6, 8)))
    with pytest.raises(ArchitectureError, match=r"Net does not run on x:.*Pass inputs="):
        propose(Net(Mixer(6, 8), Mixer(6, 8)), {"x": torch.randn(2, 5)})


def test_a_feed_forward_pair_in_a_plain_block():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x):
            return x + self.down(torch.relu(self.up(x)))

    assert propose(Net(Block(), Block()), TOKENS).spec.groups[0] == replace(
        Mlp(("up",), "down", "@block"), stage=0, accepts=propose(Net(Block(), Block()), TOKENS).spec.groups[0].accepts
    )


@pytest.mark.parametrize("seed", range(8))
def test_units_at_rest_are_pushed_harder(seed: int) -> None:
    """Of 192 units behind a ReLU some rest on all four samples, and a push may leave them there."""
    torch.manual_seed(seed)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.down(torch.relu(self.up(x)))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(3))

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                pixel_values = block(pixel_values)
            return pixel_values

    assert len(propose(Net(), {"pixel_values": torch.randn(4, 16)}).spec.groups) == 1
