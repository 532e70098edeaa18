"""The parts of a proposal by themselves: the bench, chains of blocks, reaches, heads, streams, fields, inputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.core.spec import Mlp, Strip
from optimum_grail.errors import ArchitectureError
from optimum_grail.proposals.attention import find_attention
from optimum_grail.proposals.bench import Bench, entering, first_tensor, is_matrix
from optimum_grail.proposals.blocks import find_chains, watch
from optimum_grail.proposals.chains import Reach, by_unit, norm_after, pairs, reaches, rows_of
from optimum_grail.proposals.dummies import dummy_inputs, main_input
from optimum_grail.proposals.fields import integers, with_attributes, with_fields
from optimum_grail.proposals.streams import find_stream

from .conftest import Attending, BasicBlock, Gated, Mixer, Net, Tangled

STATE = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(5))
PIXELS = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(5))


def bench_of(block, state=STATE):
    return Bench(block.eval(), (state,), {})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (STATE, True),
        ((None, STATE), True),
        ({"hidden": STATE}, True),
        ([1, "two"], False),
        (None, False),
        ({}, False),
    ],
)
def test_the_first_tensor(value, expected):
    assert (first_tensor(value) is STATE) is expected


def test_what_enters_by_place_or_by_name():
    assert entering((STATE,), {"mask": PIXELS}) is STATE
    assert entering((), {"hidden_states": PIXELS}) is PIXELS
    assert entering((), {}) is None


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(2, 3), True),
        (nn.Conv2d(2, 3, 1), True),
        (nn.Conv2d(2, 2, 1, groups=2), False),
        (nn.BatchNorm2d(2), False),
        (nn.Embedding(2, 3), False),
    ],
)
def test_what_can_produce(module, expected):
    assert is_matrix(module) is expected


def test_a_bench_repeats_itself_and_holds_what_is_frozen():
    bench = bench_of(Mixer(6, 8))
    assert torch.equal(bench.run({}).result, bench.reference.result)
    everything = torch.ones(20, dtype=torch.bool)
    moved = {"channels.0": bench.shaken("channels.0", everything)}
    assert bench.changed("channels.2", bench.run(moved)).all()
    assert not torch.equal(bench.run(moved).result, bench.reference.result)
    assert torch.equal(bench.run(moved, frozen=True).result, bench.reference.result), "the consumer puts out the same"
    assert not bench.changed("tokens.0", bench.run(moved)).any()


def test_only_the_chosen_features_are_moved():
    bench = bench_of(BasicBlock(8), PIXELS)
    chosen = torch.arange(12) % 3 == 0
    seen = bench.run({"bn1": bench.shaken("bn1", chosen)})
    assert torch.equal(bench.changed("conv2", seen), chosen)


def test_a_block_that_changes_its_input_in_place_is_benched_all_the_same():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

        def forward(self, x):
            x += self.down(torch.relu(self.up(x)))
            return x

    state = STATE.clone()
    bench = bench_of(Block(), state)
    bench.run({})
    assert torch.equal(state, STATE)


def test_chains_are_the_innermost_lists():
    stages = nn.Sequential(
        nn.Sequential(Gated(8, False, 0.5), Gated(8, False, 0.5)),
        nn.Sequential(Gated(8, False, 0.5), Gated(8, False, 0.5)),
    )
    net = nn.Module()
    net.stages = stages
    net.forward = stages.forward
    (chain,) = find_chains(net, watch(net, {"input": STATE}))
    assert chain.pattern == "stages.*.*" and chain.link == "pattern"
    assert chain.blocks == ("stages.0.0", "stages.0.1", "stages.1.0", "stages.1.1")


def test_something_between_two_lists():
    class Stages(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.ModuleList(Net(Gated(8, False, 0.5), Gated(8, False, 0.5)) for _ in range(2))

        def forward(self, x):
            return self.stages[1](self.stages[0](x) * 2)

    net = Stages()
    (chain,) = find_chains(net, watch(net, {"x": STATE}))
    assert (chain.pattern, chain.link) == ("stages.*.blocks.*", "container")


def test_a_block_used_twice_is_none():
    class Twice(Net):
        def forward(self, x):
            return super().forward(super().forward(x))

    net = Twice(Gated(8, False, 0.5), Gated(8, False, 0.5))
    assert find_chains(net, watch(net, {"x": STATE})) == []


def test_what_reaches_what():
    found = {item.consumer: item for item in reaches(bench_of(Mixer(6, 8)))}
    assert found["tokens.2"] == Reach("tokens.2", ("tokens.0",))
    assert found["channels.2"] == Reach("channels.2", ("channels.0",))
    assert found["channels.0"].sources == ("tokens.2",)
    assert found["channels.0"].leaks == "what enters the block enters it as well"


def test_a_producer_that_two_layers_read():
    leaks = {item.consumer: item.leaks for item in reaches(bench_of(Tangled(8)))}
    assert leaks == {"down": "up is read by down, side", "side": "up is read by down, side"}


def test_units_that_are_mixed_are_no_units():
    bench = bench_of(Tangled(8))
    assert not by_unit(bench, "up", torch.arange(12), "down")
    assert pairs(bench, Reach("down", ("up",))) is None
    plain = bench_of(Mixer(6, 8))
    assert by_unit(plain, "channels.0", torch.arange(20), "channels.2")
    assert not by_unit(plain, "channels.0", torch.arange(20).flip(0), "channels.2"), "others than they are called"
    assert not by_unit(plain, "channels.0", torch.arange(20), "channels.2", span=2)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("both", list(range(24))),
        (Strip("both", 0, 2), [*range(12), *[-1] * 12]),
        (Strip("both", 1, 2), [*[-1] * 12, *range(12)]),
        (Strip("both", 1, 2, True), [unit for each in range(12) for unit in (-1, each)]),
    ],
)
def test_who_owns_which_row(source, expected):
    assert rows_of(bench_of(Gated(8, False, 0.5)), source, 12).tolist() == expected


def test_the_norm_after_a_consumer():
    bench = bench_of(BasicBlock(8), PIXELS)
    assert (norm_after(bench, "conv1"), norm_after(bench, "conv2")) == ("bn1", "bn2")
    assert norm_after(bench_of(Mixer(6, 8)), "tokens.2") is None


def test_heads_in_numbers():
    found, why = find_attention(bench_of(Attending(8, 6, 3, 4)), Reach("out", ("qkv",)))
    assert why == "" and (found.queries, found.keys, found.size) == (6, 3, 4)


def test_no_heads_and_why():
    bench = bench_of(Tangled(8))
    assert find_attention(bench, Reach("down", ("up",)))[0] is None
    found, why = find_attention(bench, Reach("down", ("a", "b", "c", "d")))
    assert found is None and why.startswith("4 layers reach down")
    nameless = Attending(8, 4, 2, 6)
    vars(nameless)["size"] = vars(nameless).pop("head_dim")
    nameless.__class__ = type("Nameless", (Attending,), {"head_dim": property(lambda self: vars(self)["num_size"])})
    vars(nameless)["num_size"] = vars(nameless).pop("size")
    assert "no attribute" in find_attention(bench_of(nameless), Reach("out", ("qkv",)))[1]


@pytest.mark.parametrize(
    ("block", "state", "end", "expected"),
    [
        (Mixer(6, 8), STATE, "channels.2", ("@block", None)),
        (Gated(8, False, 0.25), STATE, "down", ("@block", "scale")),
        (Gated(8, False, 1.0), STATE, "down", ("@block", None)),
        (Attending(8, 4, 2, 6), STATE, "out", ("@block", None)),
        (BasicBlock(8), PIXELS, "bn2", (None, None)),
    ],
)
def test_where_the_sum_is_seen(block, state, end, expected):
    assert find_stream(bench_of(block, state), end) == expected


def test_attributes_and_fields_by_their_values():
    block = Mixer(6, 8)
    block.channels.width, block.channels._hidden, block.channels.layer = 20, 20, 20
    bench = bench_of(block)
    assert "width" in integers(block.channels) and "_hidden" not in integers(block.channels)
    tried = list(with_attributes(bench, Mlp(("channels.0",), "channels.2", None), None))
    assert [spec.attributes for spec in tried] == [("channels.width",), ()]
    config = nn.Module()
    vars(config).update(hidden_size=20, intermediate_size=20, num_heads=20, other=3)
    assert [spec.field for spec in with_fields(tried[0], config, None, 20)] == ["intermediate_size", "hidden_size"]
    assert list(with_fields(tried[0], None, None, 20)) == []


@pytest.mark.parametrize(
    ("name", "names", "kind"),
    [
        ("llama", {"input_ids", "attention_mask"}, "text"),
        ("vit", {"pixel_values"}, "image"),
        ("t5", {"input_ids", "attention_mask", "decoder_input_ids"}, "text"),
    ],
)
def test_inputs_made_up(name, names, kind):
    found = dummy_inputs(ARCHITECTURES.get(name).example())
    assert set(found) == names and main_input(found) == kind
    assert all(len(tensor) == 2 for tensor in found.values())


def test_inputs_that_cannot_be_made_up():
    with pytest.raises(ArchitectureError, match="Pass a batch of two or more samples"):
        dummy_inputs(nn.Linear(2, 2))
    assert main_input({"x": STATE}) == "tensors"
