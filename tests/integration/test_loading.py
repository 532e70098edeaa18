"""Compressed checkpoints through transformers' doors: generation, shards, offload, hostile tables."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import configuration_utils

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import SIZES, tiny_llama, tiny_mistral
from optimum_grail.errors import CheckpointError
from optimum_grail.models.hook import install
from optimum_grail.models.resize import resize_
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import compressed_with, write_config_
from optimum_grail.models.surgery import check_weights, narrow_

install()
IDS = torch.arange(3, 15)[None]
# before it had this function, transformers sized eagerly built static caches for one number of heads in all layers
CHUNKED = {"prefill_chunk_size": 5} if hasattr(configuration_utils, "get_head_shapes") else {}


def narrowed(model: nn.Module, widths: dict[str, int]) -> nn.Module:
    """``model`` with the named groups narrowed, and its config saying so."""
    layout = resolve(model)
    for name, units in widths.items():
        narrow_(model, layout.group(name), units)
    write_config_(model, layout, {"version": "0"})
    return model


def free_llama(build: Callable[[], nn.Module] = tiny_llama) -> nn.Module:
    """Heads 3, 4, 1 of 4 groups and 17, 48, 30 of 48 channels."""
    return narrowed(
        build(),
        {"model.layers.0.heads": 3, "model.layers.2.heads": 1, "model.layers.0.mlp": 17, "model.layers.2.mlp": 30},
    )


def test_table_names_only_what_differs() -> None:
    table = free_llama().config.grail_config["layers"]
    assert table == {
        "0": {"num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 17},
        "2": {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 30},
    }


@pytest.mark.parametrize("build", [tiny_llama, tiny_mistral])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_generation_with_every_cache(build: Callable[[], nn.Module], attention: str, tmp_path: Path) -> None:
    model = free_llama(build)
    model.save_pretrained(tmp_path)
    model = type(model).from_pretrained(tmp_path, attn_implementation=attention).eval()
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(IDS, **options, use_cache=False)
    assert expected.shape == (1, 20)
    assert torch.equal(model.generate(IDS, **options), expected)
    assert torch.equal(model.generate(IDS, **options, cache_implementation="static"), expected)
    chunked = model.generate(IDS, **options, cache_implementation="static", **CHUNKED)
    assert torch.equal(chunked, expected)
    assert torch.equal(model.generate(IDS, **options, num_beams=2)[:, :12], IDS)


def test_one_shape_for_heads_that_the_config_refuses(tmp_path: Path) -> None:
    model = narrowed(tiny_llama(), {f"model.layers.{layer}.heads": 3 for layer in range(3)})
    assert model.config.num_attention_heads == 8, "6 heads do not divide 32: LlamaConfig would refuse them"
    assert set(model.config.grail_config["layers"]) == {"0", "1", "2"}
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    static = again.generate(IDS, **options, cache_implementation="static", **CHUNKED)
    assert torch.equal(static, model.generate(IDS, **options))


def test_mixed_kinds_use_config_and_table(tmp_path: Path) -> None:
    widths = {f"model.layers.{layer}.mlp": 20 for layer in range(3)} | {"model.layers.1.heads": 2}
    model = narrowed(tiny_llama(), widths)
    assert model.config.intermediate_size == 20
    assert model.config.grail_config["layers"] == {"1": {"num_attention_heads": 4, "num_key_value_heads": 2}}
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(again(IDS).logits, model.eval()(IDS).logits)


def test_tied_weights_and_disk_offload(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = free_llama(lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)).eval())
    expected = model(IDS).logits
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(again(IDS).logits, expected)
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {"model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk"}
    away = LlamaForCausalLM.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=str(tmp_path / "offload")
    ).eval()
    torch.testing.assert_close(away(IDS).logits, expected)
    check_weights(away, resolve(away).groups)


def test_one_tower_of_a_composite_model(tmp_path: Path) -> None:
    from transformers import CLIPTextModelWithProjection

    model = narrowed(tiny_clip(), {"text_model.encoder.layers.1.heads": 3, "vision_model.encoder.layers.0.mlp": 5})
    assert model.config.text_config.grail_config["layers"] == {"1": {"num_attention_heads": 3}}
    assert model.config.vision_config.grail_config["layers"] == {"0": {"intermediate_size": 5}}
    model.save_pretrained(tmp_path)
    tower = CLIPTextModelWithProjection.from_pretrained(tmp_path).eval()
    expected = model.get_text_features(IDS).pooler_output
    torch.testing.assert_close(tower(IDS).text_embeds, expected)
    assert compressed_with(tower.config) is not None
    assert compressed_with(tiny_clip().config) is None


def test_recompressing_merges_with_the_table_that_is_there(tmp_path: Path) -> None:
    model = free_llama()
    model.save_pretrained(tmp_path / "first")
    again = narrowed(type(model).from_pretrained(tmp_path / "first"), {"model.layers.0.mlp": 9})
    again.save_pretrained(tmp_path / "second")
    third = type(model).from_pretrained(tmp_path / "second").eval()
    assert resolve(third).widths == resolve(model).widths | {"model.layers.0.mlp": 9}
    assert torch.equal(third(IDS).logits, again.eval()(IDS).logits)


HOSTILE = [
    (["layers"], "expected a dictionary"),
    ({"layers": [1]}, "expected a dictionary of layers"),
    ({"layers": {"9": {"intermediate_size": 4}}}, "no such layer"),
    ({"layers": {"../0": {"intermediate_size": 4}}}, "no such layer"),
    ({"layers": {"": {"intermediate_size": 4}}}, "no such layer"),
    ({"layers": {0: {"intermediate_size": 4}}}, "no such layer"),
    ({"layers": {"0": 4}}, "expected a dictionary of widths"),
    ({"layers": {"0": {"hidden_size": 4}}}, "no such width"),
    ({"layers": {"0": {"__class__": 4}}}, "no such width"),
    ({"layers": {"0": {"intermediate_size": True}}}, "expected a width"),
    ({"layers": {"0": {"intermediate_size": "4"}}}, "expected a width"),
    ({"layers": {"0": {"intermediate_size": 4.0}}}, "expected a width"),
    ({"layers": {"0": {"intermediate_size": None}}}, "expected a width"),
    ({"layers": {"0": {"num_attention_heads": 0, "num_key_value_heads": 1}}}, "does not fit"),
    ({"layers": {"0": {"num_attention_heads": 0}}}, "does not fit"),
    ({"layers": {"0": {"intermediate_size": -3}}}, "expected a width"),
    ({"layers": {"0": {"intermediate_size": 49}}}, "above the 48"),
    ({"layers": {"0": {"intermediate_size": 10**30}}}, "above the 48"),
    ({"layers": {"0": {"num_attention_heads": 4}}}, "does not fit"),
    ({"layers": {"0": {"num_attention_heads": 3, "num_key_value_heads": 2}}}, "does not fit"),
    ({"layers": {"0": {"num_attention_heads": 10, "num_key_value_heads": 5}}}, "above the 8"),
]


@pytest.mark.parametrize(("holder", "message"), HOSTILE, ids=[str(index) for index in range(len(HOSTILE))])
def test_hostile_tables_are_refused_before_anything_changes(holder: Any, message: str) -> None:
    model = tiny_llama()
    before = dict(model.named_parameters())
    # a sound entry comes first: it must not be applied either
    if isinstance(holder, dict) and isinstance(holder["layers"], dict):
        holder = {"layers": {"1": {"intermediate_size": 4}, **holder["layers"]}}
    model.config.grail_config = holder
    with pytest.raises(CheckpointError, match=message):
        resize_(model)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


def test_hostile_table_in_a_checkpoint_stops_loading(tmp_path: Path) -> None:
    model = tiny_bert()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["grail_config"] = {"layers": {"0": {"intermediate_size": -1}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="'intermediate_size'"):
        type(model).from_pretrained(tmp_path)


def test_table_smaller_than_the_weights_is_never_silent(tmp_path: Path) -> None:
    model = free_llama()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["grail_config"]["layers"]["0"]["intermediate_size"] = 16
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="size"):
        type(model).from_pretrained(tmp_path)


LAZY = """
import sys
from optimum_grail.models.hook import install
install(); install()
assert not {"torch", "transformers"} & set(sys.modules)
import transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
assert model.model.layers[0].mlp.down_proj.in_features == 17
from transformers.modeling_utils import PreTrainedModel
wrapped = PreTrainedModel.post_init
install()
assert PreTrainedModel.post_init is wrapped
assert not any(type(finder).__module__.startswith("optimum_grail") for finder in sys.meta_path)
"""


def test_hook_is_lazy_and_active_whatever_is_imported_first(tmp_path: Path) -> None:
    free_llama().save_pretrained(tmp_path)
    subprocess.run([sys.executable, "-c", LAZY, str(tmp_path)], check=True, timeout=120)
