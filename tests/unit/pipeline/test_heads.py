"""Pruning heads by name: exactly those go, and what is left is described by the config."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail import prune_heads_
from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.bloom import BLOOM
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.gemma import tiny_one_key_gemma3
from optimum_grail.architectures.gpt2 import tiny_gpt2
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.phi3 import PHI3
from optimum_grail.core.groups import Port
from optimum_grail.errors import ArchitectureError, ConfigError
from optimum_grail.models.check import masked
from optimum_grail.models.resolve import resolve

IDS = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(0))
DRAW = torch.Generator().manual_seed(1)
ROWS = [{"input_ids": torch.randint(3, 90, (16,), generator=DRAW)} for _ in range(24)]


@torch.no_grad()
def outputs_of(model: nn.Module) -> Tensor:
    output: Tensor = model.eval()(input_ids=IDS)[0]
    return output


def silenced(model: nn.Module, heads: Mapping[int, Sequence[int]]) -> Tensor:
    """What the model puts out with these query heads set to zero."""
    layout = resolve(model)
    dropped = {}
    for layer, gone in heads.items():
        group = next(g for g in layout.of_block(layout.stacks[0].blocks[layer]) if g.kind == "heads")
        port = group.consumer
        dropped[Port(port.module, "in", port.span // group.fields[0][1])] = torch.tensor(gone)
    with masked(model, dropped):
        return outputs_of(model)


@pytest.mark.parametrize(
    ("build", "heads"),
    [
        (tiny_bert, {0: [1], 2: [0, 3]}),
        (tiny_gpt2, {1: [7, 2]}),
        (tiny_llama, {0: [2, 3], 1: [0, 1, 6, 7]}),
        (tiny_one_key_gemma3, {0: [5], 2: [0, 1, 2]}),
    ],
    ids=["bert", "gpt2", "llama", "gemma3"],
)
def test_exactly_these_heads_go(build: Any, heads: Mapping[int, Sequence[int]], tmp_path: Path) -> None:
    model = build()
    expected = silenced(model, heads)
    plan = prune_heads_(model, heads)
    assert len(plan) == len(heads)
    torch.testing.assert_close(outputs_of(model), expected, atol=1e-5, rtol=1e-4)
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs_of(type(model).from_pretrained(tmp_path)), outputs_of(model))


def test_heads_are_numbered_as_they_are_now(tmp_path: Path) -> None:
    model, again = tiny_bert(), tiny_bert()
    prune_heads_(model, {1: [0, 2]})
    prune_heads_(again, {1: [0]})
    prune_heads_(again, {1: [1]})
    assert torch.equal(outputs_of(model), outputs_of(again))
    again.save_pretrained(tmp_path)
    assert torch.equal(outputs_of(type(again).from_pretrained(tmp_path)), outputs_of(model))


def test_a_layer_may_lose_all_heads() -> None:
    model = tiny_llama()
    expected = silenced(model, {1: list(range(8))})
    prune_heads_(model, {1: list(range(8))})
    torch.testing.assert_close(outputs_of(model), expected, atol=1e-5, rtol=1e-4)
    assert model.config.grail_config["layers"]["1"] == {"num_attention_heads": 0, "num_key_value_heads": 0}


def test_with_data_the_rest_makes_up_for_what_went() -> None:
    dense, plain, fitted = tiny_llama(), tiny_llama(), tiny_llama()
    heads = {0: [0, 1, 4, 5], 2: [2, 3]}
    prune_heads_(plain, heads)
    plan = prune_heads_(fitted, heads, ROWS, num_samples=24)
    kept = plan["model.layers.0.heads"].reduction.kept.tolist()
    assert kept == [1, 3] and {"model.layers.1.mlp", "model.layers.2.mlp"} < set(plan), "later layers are refitted"
    with torch.no_grad():
        tokens = torch.stack([row["input_ids"] for row in ROWS])
        errors = [(model.eval()(tokens)[0] - dense(tokens)[0]).norm() for model in (plain, fitted)]
    assert errors[1] < 0.9 * errors[0]
    assert [layer.self_attn.o_proj.in_features for layer in fitted.model.layers] == [32, 64, 48]


def test_one_part_of_several() -> None:
    model = tiny_clip()
    with pytest.raises(ConfigError, match=r"text_model, vision_model.*stack="):
        prune_heads_(model, {0: [1]})
    with pytest.raises(ConfigError, match="'tower'; expected one of text_model"):
        prune_heads_(model, {0: [1]}, stack="tower")
    prune_heads_(model, {0: [1]}, stack="vision_model")
    kept = [group.units for group in resolve(model).groups if group.kind == "heads"]
    assert kept == [4, 4, 3, 4]


@pytest.mark.parametrize(
    ("build", "heads", "message"),
    [
        (tiny_llama, {3: [0]}, r"no heads in layer 3; expected one of \[0, 1, 2\]"),
        (tiny_llama, {0: [8]}, r"heads 0 to 7; it has no \[8\]"),
        (tiny_llama, {0: [-1, 0]}, r"it has no \[-1\]"),
        (tiny_llama, {0: [2, 3, 4]}, r"2 query heads each share.*name \[5\] too"),
        (PHI3.example, {0: [0, 1]}, "one number of heads for all layers"),
        (PHI3.example, dict.fromkeys(range(3), range(8)), "has to keep 1 of its 4 heads"),
    ],
)
def test_what_cannot_go_is_refused_before_anything_changes(build: Any, heads: Any, message: str) -> None:
    model = build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=message):
        prune_heads_(model, heads)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not hasattr(model.config, "grail_config")


def test_families_without_heads_say_why() -> None:
    with pytest.raises(ArchitectureError, match=r"No heads of this model can go\. ALiBi"):
        prune_heads_(BLOOM.example(), {0: [1]})


def test_the_same_number_everywhere_is_an_ordinary_checkpoint() -> None:
    model = PHI3.example()
    prune_heads_(model, {layer: [0, 1, 2 * layer + 2, 2 * layer + 3] for layer in range(3)})
    assert model.config.num_attention_heads == 4 and "layers" not in model.config.grail_config
