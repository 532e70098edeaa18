"""``check_map`` passes maps that tell the truth, and says of others which law fails, where, and what to change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from optimum_grail import check_map
from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.architectures.llama import HELIUM, LLAMA
from optimum_grail.architectures.qwen import QWEN3
from optimum_grail.core.spec import ArchitectureSpec, Mlp, Strip
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.hook import install

install()
Maps = Mapping[str, ArchitectureSpec]
FOUND = {
    "gpt2": ({"heads": 2, "mlp": 2}, ("mlp",), ()),
    "phi3": ({"heads": 2, "mlp": 2}, ("heads", "mlp"), ()),
    "neox": ({"heads": 2, "mlp": 2}, ("mlp",), ()),
    "olmo2": ({"heads": 2, "mlp": 2}, ("heads", "mlp"), ("heads",)),
    "convnext": ({"mlp": 4}, (), ()),
    "segformer": ({"mlp": 3}, (), ()),
    "t5": ({"mlp": 4}, ("mlp",), ()),
}


@pytest.mark.parametrize("name", FOUND)
def test_every_law_holds(name: str, maps: Maps) -> None:
    before = {family: id(spec) for family, spec in ARCHITECTURES}
    report = check_map(maps[name])
    assert (report.groups, report.standalone, report.inexact) == FOUND[name]
    assert before == {family: id(spec) for family, spec in ARCHITECTURES}, "served for the check only"


APART = {name: Strip("attention.query_key_value", part, 3) for part, name in enumerate(("query", "key", "value"))}
CASES: list[tuple[str, int, dict[str, Any], str]] = [
    ("olmo2", 0, {"channelwise": ()}, r"code of model.layers.0.self_attn.q_norm fails.*channelwise"),
    ("gpt2", 0, {"attributes": ()}, r"code of transformer.h.0.attn fails.*attributes"),
    ("phi3", 0, {"attributes": (("self_attn.num_key_value_heads", "key_value"),)}, "self_attn"),
    ("neox", 0, APART, "not the same as setting them to zero.*interleaved"),
    ("gpt2", 1, {"field": "n_embd", "default": None}, "expressible, but with"),
    ("olmo2", 1, {"stream": "@block"}, "does not arrive as it is in the stream '@block'.*behind a norm"),
    ("phi3", 0, {"stream": "input_layernorm"}, "right after the consumer"),
    ("gpt2", 0, {"stream": "attn.c_attn:output"}, "has 48 features; .* puts out 16"),
    ("convnext", 0, {"factor": None}, "factor what its output is multiplied by"),
    ("segformer", 0, {"channelwise": ()}, r"code of segformer.stages.0.blocks.0.mlp.dwconv.dwconv fails"),
]


@pytest.mark.parametrize(("name", "place", "fields", "message"), CASES)
def test_the_first_law_that_fails(
    name: str, place: int, fields: Mapping[str, Any], message: str, change: Callable[..., ArchitectureSpec]
) -> None:
    with pytest.raises(ArchitectureError, match=message):
        check_map(change(name, place, **fields))


class Block(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.up, self.down, self.scale = nn.Linear(6, 8), nn.Linear(8, 6), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.down(torch.relu(self.up(x)))


PLAIN = ArchitectureSpec(
    (), ("*",), (Mlp(("up",), "down", "@block"),), example=lambda: nn.Sequential(Block(1.0), Block(1.0))
)


class Net(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


def test_a_module_without_a_config() -> None:
    inputs = {"x": torch.randn(4, 6)}
    report = check_map(replace(PLAIN, example=lambda: Net(Block(1.0), Block(1.0))), inputs)
    assert (report.groups, report.standalone) == ({"mlp": 2}, ())
    with pytest.raises(ArchitectureError, match="changes no output"):
        check_map(replace(PLAIN, example=lambda: Net(Block(0.0), Block(1.0))), inputs)
    with pytest.raises(ArchitectureError, match="Pass inputs"):
        check_map(PLAIN)
    with pytest.raises(ArchitectureError, match="no example"):
        check_map(replace(PLAIN, example=None))


def test_heads_that_turn_otherwise_than_the_map_says_are_found() -> None:
    """Helium turns neighbours, Qwen3 normalises each head: neither can lose a pair and stay what it was."""
    for build, spec in ((HELIUM.example, HELIUM), (QWEN3.example, QWEN3)):
        assert build is not None
        heads = replace(spec.groups[0], rotary="rotary_emb")
        with pytest.raises(ArchitectureError, match="Leave rotary out of the map"):
            check_map(replace(spec, groups=(heads, *spec.groups[1:])))


def test_a_map_that_names_no_rotary_module_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="inv_freq"):
        check_map(replace(LLAMA, groups=(replace(LLAMA.groups[0], rotary="norm"), *LLAMA.groups[1:])))
