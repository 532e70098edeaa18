"""What the stock configs can say."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.llama import tiny_llama, tiny_mistral
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.config.config import GrailConfig
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.errors import ArchitectureError, ConfigError
from optimum_grail.models.biases import add_biases_
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import config_updates, expressible, is_standalone, write_config_
from optimum_grail.models.surgery import narrow_


def widths(build: type, kind: str) -> list[int]:
    model = build()
    layout = resolve(model)
    group = next(group for group in layout.groups if group.kind == kind)
    return [units for units in range(1, group.units + 1) if expressible(model, layout, group, units)]


def test_which_widths_are_expressible() -> None:
    assert widths(tiny_llama, "heads") == [1, 2, 4], "6 query heads do not divide 32"
    assert widths(tiny_mistral, "heads") == [1, 2, 3, 4]
    assert widths(tiny_bert, "heads") == [4]
    assert widths(tiny_vit, "heads") == [1, 2, 3, 4]
    assert widths(tiny_basic, "conv") == [8]
    assert widths(tiny_bert, "mlp") == list(range(1, 49))


def test_updates_pin_the_head_size_and_change_nothing() -> None:
    model = tiny_vit()
    layout = resolve(model)
    heads = {group.name: 3 for group in layout.groups if group.kind == "heads"}
    (update,) = config_updates(model, layout, heads)
    assert update.fields == {"num_attention_heads": 3, "head_dim": 8} and not update.layers
    assert model.config.num_attention_heads == 4
    assert is_standalone(config_updates(model, layout, {}))
    (free,) = config_updates(model, layout, {layout.groups[0].name: 3})
    assert free.layers == {"0": {"num_attention_heads": 3}} and not free.fields


def test_a_config_whose_layers_differ_says_how_to_load_it() -> None:
    model = tiny_llama()
    layout = resolve(model)
    write_config_(model, layout, {"seed": 3})
    assert model.config.grail_config == {"seed": 3}
    narrow_(model, layout.groups[1], 5)
    write_config_(model, layout, {"seed": 3})
    assert "`import optimum_grail` before from_pretrained" in model.config.to_diff_dict()["grail_config"]["how_to_load"]
    assert GrailConfig.from_dict(model.config.grail_config).seed == 3


def test_a_module_without_config_has_nothing_to_write() -> None:
    model = tiny_llama()
    layout = resolve(model)
    bare = nn.Module()
    bare.model = model.model
    with pytest.raises(ArchitectureError, match="save_compressed"):
        write_config_(bare, layout, {})


def test_biases_leave_the_outputs_alone_and_survive_saving(tmp_path: object) -> None:
    model, ids = tiny_llama(), torch.arange(3, 15)[None]
    expected = model(ids).logits
    layout = resolve(model)
    added = add_biases_(model, layout)
    assert added.count == 3 * (64 + 32 + 32 + 32 + 48 + 48 + 32)
    assert resolve(model).total_parameters == layout.total_parameters + added.count
    assert torch.equal(model(ids).logits, expected)
    assert add_biases_(model, layout).count == 0
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert again.config.attention_bias and again.config.mlp_bias
    assert torch.equal(again(ids).logits, expected)


def test_biases_that_no_config_can_say_are_refused() -> None:
    model = tiny_mistral()
    with pytest.raises(ConfigError, match="affine=False"):
        add_biases_(model, resolve(model))


def test_biases_can_be_taken_out_again() -> None:
    model, names = tiny_llama(), set(tiny_llama().state_dict())
    added = add_biases_(model, resolve(model))
    assert set(model.state_dict()) > names
    added.remove_()
    assert set(model.state_dict()) == names and not model.config.attention_bias and not model.config.mlp_bias


def test_a_width_that_the_config_leaves_open(maps: Mapping[str, ArchitectureSpec]) -> None:
    model = maps["gpt2"].example()
    layout = resolve(model, maps["gpt2"])
    names = [group.name for group in layout.groups if group.kind == "mlp"]
    assert model.config.n_inner is None and expressible(model, layout, layout.group(names[0]), 64)
    (update,) = config_updates(model, layout, {})
    assert not update.fields and not update.layers
    (update,) = config_updates(model, layout, dict.fromkeys(names, 17))
    assert update.fields == {"n_inner": 17} and not update.layers
    (update,) = config_updates(model, layout, {names[1]: 17})
    assert update.layers == {"1": {"n_inner": 17}}, "the layer that stays whole is not in the table"


def test_one_width_for_all_layers_where_the_forward_reads_the_config(maps: Mapping[str, ArchitectureSpec]) -> None:
    model = maps["phi3"].example()
    layout = resolve(model, maps["phi3"])
    first, second = (group for group in layout.groups if group.kind == "heads")
    assert first.uniform == second.uniform and first.fewest == 1
    narrow_(model, first, 1)
    own = [layer.self_attn.config.num_attention_heads for layer in model.model.layers]
    assert own == [2, 4] and model.config.num_attention_heads == 4
    model(torch.arange(3, 9)[None])
    with pytest.raises(ArchitectureError, match="one config for all layers"):
        write_config_(model, layout, {})
    narrow_(model, second, 1)
    write_config_(model, layout, {})
    assert model.config.num_attention_heads == 2
    assert all(layer.self_attn.config is model.config for layer in model.model.layers)
