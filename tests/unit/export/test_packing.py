"""Sub-blocks become layers; what is added to the stream stays."""

from __future__ import annotations

from typing import Any

import pytest

from optimum_grail.export.packing import Layer, Part, fill, heads_of, pack


def sketch(layers: Any) -> list[tuple[str, ...]]:
    """For each layer the names of its norms, ``-`` for none and ``0`` for what computes nothing."""
    return [
        tuple(
            "-" if part is None else part.block.norm if part.block else "0"
            for part in (one.attention, one.feed_forward)
        )
        for one in layers
    ]


@pytest.mark.parametrize(
    ("widths", "wanted"),
    [
        (((1, 3), (1, 3)), [("a0.norm", "f0.norm"), ("a1.norm", "f1.norm")]),
        (((1, 0), (0, 3)), [("a0.norm", "f1.norm")]),
        (((1, 0), (1, 3)), [("a0.norm", "-"), ("a1.norm", "f1.norm")]),
        (((0, 3), (1, 3)), [("-", "f0.norm"), ("a1.norm", "f1.norm")]),
        (((1, 3), (0, 3)), [("a0.norm", "f0.norm"), ("-", "f1.norm")]),
        (((0, 0), (1, 3), (0, 0)), [("a1.norm", "f1.norm")]),
        (((0, 0),), []),
    ],
)
def test_an_attention_opens_a_layer_and_a_feed_forward_network_closes_it(blocks, widths, wanted):
    assert sketch(pack(blocks(*widths))) == wanted


def test_what_has_gone_leaves_its_bias_to_the_sub_block_before(blocks):
    layers = pack(blocks((1, 0), (0, 3), (0, 0), biased=True))
    assert layers[0].attention.biases == ("a0.o.bias", "f0.down.bias", "a1.o.bias")
    assert layers[0].feed_forward.biases == ("f1.down.bias", "a2.o.bias", "f2.down.bias")


def test_at_the_beginning_an_attention_that_computes_nothing_has_the_bias(blocks):
    layers = pack(blocks((0, 3), biased=True))
    assert layers == (Layer(Part(None, ("a0.o.bias",)), layers[0].feed_forward),)
    assert heads_of(layers[0]) == (1, 1)


def test_gaps_are_filled_where_asked(blocks):
    layers = pack(blocks((0, 3), (0, 3), (1, 0)))
    assert sketch(fill(layers, {0})) == [("0", "f0.norm"), ("-", "f1.norm"), ("a2.norm", "0")]
    assert [heads_of(layer) for layer in fill(layers, {0})] == [(1, 1), (0, 0), (2, 1)]
