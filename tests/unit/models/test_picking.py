"""Attention that has lost heads, and is called with something that has a slice for each head that it had."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.architectures.mpnet import tiny_mpnet
from optimum_grail.architectures.t5 import tiny_mt5, tiny_t5
from optimum_grail.checkpoints.remote_code import write_remote_code_
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.hook import install
from optimum_grail.models.made_up import inputs_for
from optimum_grail.models.matrix import to_matrix
from optimum_grail.models.picking import Picking
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import write_config_
from optimum_grail.models.surgery import apply_, narrow_

install()


def heads_of(model: nn.Module, block: int) -> ChannelGroup:
    return [group for group in resolve(model).groups if group.kind == "heads"][block]


def shrink_(model: nn.Module, group: ChannelGroup, reduction: Reduction) -> None:
    weight = reduction.lift_columns(to_matrix(model.get_submodule(group.consumer.module)), group.consumer.span)
    apply_(model, Plan([GroupPlan(group, reduction, Readout(weight))]))


def pruned_(model: nn.Module, group: ChannelGroup, *kept: int) -> None:
    shrink_(model, group, Reduction.prune(group.units, torch.tensor(kept)))


def shares(model: nn.Module, group: ChannelGroup) -> Tensor:
    module = model.get_submodule(str(group.attention))
    assert isinstance(module, Picking)
    return module.head_shares


def test_a_layer_keeps_the_slices_of_its_own_heads() -> None:
    model = tiny_mpnet()
    group = heads_of(model, 1)
    pruned_(model, group, 0, 3)
    assert shares(model, group).tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]
    seen = []
    attention = model.get_submodule(str(group.attention))
    attention.dropout.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    model(torch.randint(3, 90, (2, 7)))
    assert seen == [2]
    assert not isinstance(model.get_submodule(str(heads_of(model, 0).attention)), Picking), "which kept all of them"


def test_twice_is_once() -> None:
    once, twice = tiny_mpnet(), tiny_mpnet()
    group = heads_of(once, 0)
    pruned_(once, group, 1, 3)
    pruned_(twice, group, 0, 1, 3)
    pruned_(twice, heads_of(twice, 0), 1, 2)
    ids = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(twice(ids).logits, once(ids).logits)
    assert torch.equal(shares(twice, group), shares(once, group))
    assert type(twice.get_submodule(str(group.attention))) is type(once.get_submodule(str(group.attention)))


def test_folded_heads_have_the_mean_of_their_slices() -> None:
    model = tiny_mpnet()
    group = heads_of(model, 0)
    shrink_(model, group, Reduction.fold(torch.tensor([0, 1, 0, 1])))
    assert shares(model, group).tolist() == [[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5]]


def test_all_heads_can_go_where_nothing_is_handed_on() -> None:
    model = tiny_mpnet()
    group = heads_of(model, 2)
    assert group.fewest == 0
    narrow_(model, group, 2)
    narrow_(model, heads_of(model, 2), 0)
    assert bool(torch.isfinite(model(torch.randint(3, 90, (1, 6))).logits).all())
    assert all(found.fewest == 1 for found in resolve(tiny_t5()).groups if found.kind == "heads")


@torch.no_grad()
@pytest.mark.parametrize("build", [tiny_t5, tiny_mt5])
def test_the_first_layer_hands_on_the_bias_of_all_heads(build: object) -> None:
    model = build()  # type: ignore[operator]
    first = model.encoder.block[0].layer[0].SelfAttention
    hidden = torch.randn(2, 5, 32)
    expected = first(hidden)[1]
    pruned_(model, heads_of(model, 0), 1, 2)
    output, bias, _ = first(hidden)
    assert output.shape == hidden.shape and torch.equal(bias, expected) and bias.shape[1] == 4
    assert first(hidden, position_bias=expected)[1] is expected
    torch.testing.assert_close(first(hidden, position_bias=expected)[0], output)


@torch.no_grad()
def test_attention_without_a_bias_hands_nothing_on() -> None:
    """Each layer's attention to the encoder makes zeros of its own heads; those of another would not fit."""
    model = tiny_t5()
    cross = [group for group in resolve(model).groups if group.name.endswith("cross")]
    pruned_(model, cross[0], 0)
    module = model.get_submodule(str(cross[0].attention))
    assert module(torch.randn(1, 3, 32), key_value_states=torch.randn(1, 4, 32))[1] is None
    inputs = inputs_for(model, resolve(model).stacks[0].spec)
    assert bool(torch.isfinite(model(**inputs).logits).all())


@torch.no_grad()
def test_slices_are_picked_in_the_precision_of_the_bias() -> None:
    model = tiny_mpnet().to(torch.bfloat16)
    group = heads_of(model, 0)
    pruned_(model, group, 2)
    attention, hidden = model.get_submodule(str(group.attention)), torch.randn(1, 4, 32).bfloat16()
    bias = torch.randn(1, 4, 4, 4).bfloat16()
    (found,) = attention(hidden, position_bias=bias)
    (expected,) = attention(hidden, position_bias=bias.index_select(1, torch.tensor([0, 1, 2, 3])))
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected)


def test_which_heads_are_left_is_saved_with_the_weights(tmp_path: Path) -> None:
    model = tiny_mpnet()
    layout = resolve(model)
    group = heads_of(model, 1)
    pruned_(model, group, 1, 2, 3)
    write_config_(model, layout, {})
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(shares(again, group), shares(model, group))
    again = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert shares(again, group).tolist() == shares(model, group).tolist()


def test_code_beside_the_checkpoint_is_refused(tmp_path: Path) -> None:
    model = tiny_mpnet()
    layout = resolve(model)
    pruned_(model, heads_of(model, 0), 0, 1)
    write_config_(model, layout, {})
    with pytest.raises(ArchitectureError, match=r"encoder\.layer\.0\.attention\.attn.*include_modeling_code"):
        write_remote_code_(model, tmp_path)


def test_a_copy_picks_too() -> None:
    model = tiny_mpnet()
    pruned_(model, heads_of(model, 0), 0, 2)
    twin = copy.deepcopy(model)
    ids = torch.randint(3, 90, (1, 6), generator=torch.Generator().manual_seed(1))
    assert torch.equal(twin(ids).logits, model(ids).logits)


def test_without_the_declaration_the_map_is_refused() -> None:
    from optimum_grail import check_map
    from optimum_grail.architectures.mpnet import MPNET

    heads, mlp = MPNET.groups
    with pytest.raises(ArchitectureError, match=r"code of mpnet\.encoder\.layer\.0\.attention\.attn fails"):
        check_map(replace(MPNET, groups=(replace(heads, arguments=()), mlp)))  # type: ignore[arg-type]
