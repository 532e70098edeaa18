"""Heads that are added change nothing."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from optimum_grail.export.padding import Room, rooms

DIM = 4


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ([(6, 3), (6, 3)], [(6, 3), (6, 3)]),
        ([(6, 3), (2, 1)], [(6, 3), (6, 1)]),
        ([(12, 6), (10, 5), (8, 4)], [(12, 6), (12, 6), (12, 4)]),
        ([(6, 3), (0, 0)], [(6, 3), (6, 1)]),
        ([(0, 0)], [(1, 1)]),
        ([(6, 2), (4, 4)], [(6, 2), (6, 6)]),
        ([(6, 2), (5, 5)], [(6, 2), (6, 6)]),
        ([(6, 2), (6, 3), (8, 2)], [(8, 2), (8, 4), (8, 2)]),
    ],
)
def test_the_fewest_heads_that_all_layers_can_have(counts, wanted):
    assert [(room.all_heads, room.all_groups) for room in rooms(counts)] == wanted


@pytest.mark.parametrize("room", [Room(4, 2, 6, 3), Room(2, 1, 6, 1), Room(6, 3, 12, 4), Room(4, 4, 8, 4)])
def test_the_output_is_the_same(room):
    draw = torch.Generator().manual_seed(0)
    rows = {"q": room.heads, "k": room.groups, "v": room.groups}
    weights = {name: torch.randn(count * DIM, 8, generator=draw) for name, count in rows.items()}
    out, states = torch.randn(8, room.heads * DIM, generator=draw), torch.randn(5, 8, generator=draw)

    def attend(q, k, v, o, heads, groups):
        split = [(states @ w.T).view(5, -1, DIM).transpose(0, 1) for w in (q, k, v)]
        keys, values = (part.repeat_interleave(heads // groups, 0) for part in split[1:])
        mixed = scaled_dot_product_attention(split[0], keys, values, is_causal=True)
        return mixed.transpose(0, 1).reshape(5, -1) @ o.T

    plain = attend(*weights.values(), out, room.heads, room.groups)
    padded = [room.query(weights["q"], DIM), room.key(weights["k"], DIM), room.key(weights["v"], DIM)]
    assert padded[0].shape[0] == room.all_heads * DIM and padded[1].shape[0] == room.all_groups * DIM
    wide = attend(*padded, room.out(out, DIM), room.all_heads, room.all_groups)
    assert torch.allclose(plain, wide, atol=1e-5)


def test_biases_are_padded_too():
    bias = torch.arange(1.0, 9.0)
    assert Room(2, 1, 3, 1).query(bias, DIM).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0]
    assert Room(2, 2, 3, 3).key(bias, DIM).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0]
