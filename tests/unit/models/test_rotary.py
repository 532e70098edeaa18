"""Rotary positions of smaller heads: layouts of some owners only, hooks of others, maps that promise too much."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.core.head_size import HeadReduction
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.head_size import OwnTurns, resize_attention_
from optimum_grail.models.resolve import resolve
from optimum_grail.models.rotary import check_head_size, check_static, resized, settle_head_size_, turns_of

ALL = torch.arange(4)


def test_heads_of_another_owner_stay() -> None:
    layout = resolve(tiny_llama())
    assert resized(layout, {"elsewhere": torch.tensor([0])}) == layout
    found = resized(layout, {"model": torch.tensor([0, 1, 3])})
    query = next(group.inside.query for group in layout.groups if group.inside is not None)
    assert found.weights[query].rows * 8 == layout.weights[query].rows * 6
    for before, after in zip(layout.groups, found.groups, strict=True):
        assert after == before if before.inside is None else after.inside == replace(before.inside, size=6)


def test_all_pairs_turn_as_they_did() -> None:
    model: Any = tiny_llama()
    known = dict(model.config.rope_parameters)
    found = turns_of(model.config, model.model.rotary_emb, ALL, 8)
    assert found == {**known, "rope_theta": pytest.approx(known["rope_theta"])}
    assert dict(model.config.rope_parameters) == known, "the config is not changed here"


def test_a_single_pair_that_is_not_the_first_is_spelled_out() -> None:
    model: Any = tiny_llama()
    found = turns_of(model.config, model.model.rotary_emb, torch.tensor([3]), 8)
    (factor,) = found["short_factor"]
    assert found["rope_type"] == "longrope" and found["short_factor"] == found["long_factor"]
    assert 1 / factor == pytest.approx(float(model.model.rotary_emb.inv_freq[3]))
    check_static(found)


def test_positions_of_half_a_head_are_refused_by_name() -> None:
    check_static({"rope_type": "linear", "partial_rotary_factor": 1.0})
    with pytest.raises(ArchitectureError, match=r"\(linear\).*Leave out --head-dim-sparsity"):
        check_static({"rope_type": "linear", "partial_rotary_factor": 0.25})
    with pytest.raises(ArchitectureError, match=r"\(None\)"):
        check_static({})


def test_without_a_config_heads_cannot_shrink() -> None:
    model: Any = tiny_llama()
    layout = resolve(model)
    check_head_size(model, layout)
    del model.model.config
    with pytest.raises(ArchitectureError, match="only where a config says how large they are"):
        check_head_size(model, layout)


def test_hooks_of_others_stay() -> None:
    model: Any = tiny_llama()
    layout, attention = resolve(model), model.model.layers[0].self_attn
    calls: list[nn.Module] = []
    attention.register_forward_pre_hook(lambda module, args: calls.append(module))
    attention.register_forward_pre_hook(OwnTurns(torch.tensor([0]), 8), with_kwargs=True)
    settle_head_size_(model, layout, {"model": ALL})
    assert len(attention._forward_pre_hooks) == 1 and not attention._forward_pre_hooks_with_kwargs
    with torch.no_grad():
        model(input_ids=torch.arange(3, 9)[None])
    assert calls == [attention]


def test_heads_that_keep_their_size_get_no_hook() -> None:
    model: Any = tiny_llama()
    group = next(group for group in resolve(model).groups if group.inside is not None)
    eye = torch.eye(8, dtype=torch.float64)
    resize_attention_(model, group, HeadReduction(ALL, eye.expand(4, -1, -1), eye.expand(8, -1, -1)))
    attention = model.get_submodule(str(group.attention))
    assert (attention.head_dim, len(attention._forward_pre_hooks)) == (8, 0)


@pytest.mark.parametrize("spoil", ["scaling", "inv_freq"])
def test_a_map_that_promises_too_much_is_told(spoil: str) -> None:
    model: Any = tiny_llama()
    if spoil == "scaling":
        model.model.layers[1].self_attn.scaling = 0.3
    else:
        del model.model.rotary_emb.inv_freq
    with pytest.raises(ArchitectureError, match=r"can shrink inside, expecting.*Leave rotary out of the map"):
        resolve(model)
