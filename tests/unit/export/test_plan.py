"""A file as a value: keys, tensors, types."""

from __future__ import annotations

import math

import pytest
import torch

from optimum_grail.export.gguf.plan import plan_file
from optimum_grail.export.gguf.sources import Given, Stacked, Stored, Sum, Zeros
from optimum_grail.export.gguf.types import TYPES, bytes_of, type_of
from optimum_grail.export.rope import Rope


def planned(decoder, shapes, kind="f32"):
    return plan_file(decoder, shapes(decoder), kind, {"general.name": "it"})


def entries(plan):
    return {entry.name: entry for entry in plan.entries}


def test_keys_of_one_width_and_of_several(decoder, shapes):
    one = planned(decoder((1, 3), (1, 3)), shapes).keys
    assert (one["llama.attention.head_count"], one["llama.feed_forward_length"]) == (2, 3)
    several = planned(decoder((1, 3), (2, 4)), shapes).keys
    assert several["deci.attention.head_count"] == [2, 4]
    assert several["deci.attention.head_count_kv"] == [1, 2]
    assert several["deci.feed_forward_length"] == [3, 4]
    assert several["deci.block_count"] == 2
    assert several["deci.attention.key_length"] == several["deci.rope.dimension_count"] == 4
    assert several["general.name"] == "it"


def test_tensors_of_a_layer(decoder, shapes):
    found = entries(planned(decoder((1, 3), (2, 4), biased=True), shapes))
    assert found["blk.1.attn_q.weight"].source == Stored("a1.q.weight", heads=4)
    assert found["blk.1.attn_k.bias"].source == Stored("a1.k.bias", heads=2)
    assert found["blk.1.attn_v.weight"].source == Stored("a1.v.weight")
    assert found["blk.1.attn_output.bias"].source == Sum((Stored("a1.o.bias"),))
    assert found["blk.1.ffn_down.weight"].shape == (8, 4)
    assert found["output.weight"].source == Stored("head")
    assert len(found) == 3 + 2 * 16


def test_a_tied_output_layer_is_left_out(decoder, shapes):
    assert "output.weight" not in entries(planned(decoder((1, 3), head=None), shapes))


def test_openelm_has_fused_projections_that_are_not_turned(decoder, shapes):
    model = decoder((1, 3), (2, 4), family="qwen3", head=None)
    fused = entries(planned(model, shapes))["blk.1.attn_qkv.weight"]
    assert fused.source == Stacked((Stored("a1.q.weight"), Stored("a1.k.weight"), Stored("a1.v.weight")))
    assert fused.shape == (16 + 8 + 8, 8)


def test_what_is_missing_is_zero_and_told(decoder, shapes):
    plan = planned(decoder((0, 3), (1, 0)), shapes)
    found = entries(plan)
    assert found["blk.0.attn_q.weight"].source == Zeros((4, 8))
    assert found["blk.1.ffn_down.weight"].source == Zeros((8, 32))
    assert plan.repairs[0].startswith("2 sub-blocks have gone")
    assert plan.repairs[1].startswith("2 sub-blocks of zeros")


def test_a_window_bounds_the_context(decoder, shapes):
    plan = planned(decoder((1, 3), context=32, window=32), shapes)
    assert plan.keys["llama.context_length"] == 32
    assert "sees 32 tokens" in plan.repairs[0]


def test_positions(decoder, shapes):
    scaled = planned(decoder((1, 3), rope=Rope(500.0, (1.0, 8.0), attention=1.1)), shapes)
    assert entries(scaled)["rope_freqs.weight"].source == Given((1.0, 8.0))
    assert (scaled.keys["llama.rope.freq_base"], scaled.keys["llama.rope.scaling.attn_factor"]) == (500.0, 1.1)
    two = planned(decoder((1, 3), rope=Rope(500.0, (1.0, 2.0), (3.0, 4.0), 128, 1.2)), shapes)
    assert entries(two)["rope_factors_long.weight"].source == Given((3.0, 4.0))
    assert two.keys["llama.rope.scaling.type"] == "longrope"
    assert two.keys["llama.rope.scaling.original_context_length"] == 128


@pytest.mark.parametrize("kind", TYPES)
def test_types(kind, decoder, shapes):
    plan = planned(decoder((8, 64), (8, 33), vocabulary=64, hidden=8), shapes, kind)
    found = entries(plan)
    assert found["blk.0.attn_norm.weight"].type == "f32"
    quantized = kind in ("q8_0", "q4_0")
    assert found["blk.0.ffn_down.weight"].type == kind
    assert found["blk.1.ffn_down.weight"].type == ("f16" if quantized else kind)
    assert found["blk.0.ffn_up.weight"].type == ("f16" if quantized else kind)  # rows of 8
    assert ("general.quantization_version" in plan.keys) is quantized
    assert [entry.name for entry in plan.unaligned if "down" in entry.name] == ["blk.1.ffn_down.weight"] * quantized


def test_embeddings_keep_eight_bits():
    assert type_of("token_embd.weight", (10, 64), "q4_0") == type_of("output.weight", (10, 64), "q4_0") == "q8_0"
    assert type_of("token_embd.weight", (10, 60), "q4_0") == "f16"


def test_bytes():
    assert [bytes_of((3, 64), kind) for kind in TYPES] == [768, 384, 384, 204, 108]


def test_rows_are_turned_as_llama_cpp_turns_pairs():
    """Pair ``i`` of a head is its rows ``i`` and ``i + half``; there they are neighbours."""
    rows = torch.arange(16.0).view(16, 1)
    turned = Stored("q", heads=2).values({"q": rows}.__getitem__)
    assert turned.flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert torch.equal(Stored("q").values({"q": rows}.__getitem__), rows)


def test_sums_and_stacks():
    stored = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([10.0, 20.0], dtype=torch.bfloat16)}
    assert Sum((Stored("a"), Stored("b"))).values(stored.__getitem__).tolist() == [11, 22]
    stacked = Stacked((Zeros((1, 2)), Stored("m")))
    assert stacked.values({"m": torch.ones(2, 2)}.__getitem__).tolist() == [[0, 0], [1, 1], [1, 1]]
    assert stacked.shape({"m": (2, 2)}) == (3, 2)
    assert Given((1.5,)).values(stored.__getitem__).dtype == torch.float32
    assert math.isclose(float(Given((1.5,)).values(stored.__getitem__)), 1.5)
