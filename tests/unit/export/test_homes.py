"""Which architecture takes which model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from optimum_grail.errors import ArchitectureError
from optimum_grail.export.gguf.homes import choose_home, widths
from optimum_grail.export.packing import pack
from optimum_grail.export.rope import Rope

SAME, OTHER = ((1, 3), (1, 3)), ((1, 3), (1, 4))


def home(model):
    return choose_home(model, pack(model.sub_blocks))[0].name


@pytest.mark.parametrize(
    ("family", "layers", "name"),
    [
        ("llama", SAME, "llama"),
        ("mistral", SAME, "llama"),
        ("qwen2", SAME, "qwen2"),
        ("qwen3", SAME, "qwen3"),
        ("llama", OTHER, "deci"),
        ("mistral", OTHER, "deci"),
        ("qwen2", OTHER, "deci"),
        ("qwen2", ((2, 3), (2, 3)), "deci"),  # heads wider than the stream
        ("llama", ((1, 3), (0, 3)), "deci"),
    ],
)
def test_the_own_architecture_where_it_can_be(decoder, family, layers, name):
    assert home(decoder(*layers, family=family)) == name


def test_qwen3_of_several_widths_needs_tied_embeddings(decoder):
    assert home(decoder(*OTHER, family="qwen3", head=None)) == "openelm"
    with pytest.raises(ArchitectureError, match=r"'openelm' has no output layer apart.*--allocation uniform"):
        home(decoder(*OTHER, family="qwen3"))


def test_biases_decide_too(decoder):
    assert home(decoder(*SAME, biased=True)) == "llama"
    assert home(decoder(*SAME, biased=True, family="qwen2")) == "deci"
    with pytest.raises(ArchitectureError, match=r"'qwen3' has no biases of attention, down?|feed_forward"):
        home(decoder(*SAME, biased=True, family="qwen3"))


def test_frequencies_of_its_own(decoder):
    scaled = Rope(10000.0, (1.0, 2.0))
    assert home(decoder(*SAME, family="qwen2", rope=scaled)) == "deci"
    with pytest.raises(ArchitectureError, match="rope_parameters"):
        home(decoder(*SAME, family="qwen3", rope=scaled))


def test_openelm_has_both_sub_blocks_everywhere(decoder):
    model = decoder((1, 3), (0, 4), (1, 0), family="qwen3", head=None)
    found, layers = choose_home(model, pack(model.sub_blocks))
    assert found.name == "openelm"
    assert [widths(layer) for layer in layers] == [(2, 1, 3), (1, 1, 4), (2, 1, 32)]


def test_deci_has_an_attention_in_the_first_layer_and_all_feed_forward_networks(decoder):
    model = decoder((0, 3), (0, 4), (1, 0))
    _, layers = choose_home(model, pack(model.sub_blocks))
    assert [widths(layer) for layer in layers] == [(1, 1, 3), (0, 0, 4), (2, 1, 32)]


def test_a_model_without_layers_has_no_home(decoder):
    model = replace(decoder((0, 0)), family="llama")
    with pytest.raises(ArchitectureError, match="without layers"):
        home(model)
