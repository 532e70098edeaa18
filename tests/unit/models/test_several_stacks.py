"""Sub-models with several chains of blocks: their masks, their names, their words in one config."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import MT5EncoderModel

from optimum_grail.architectures.bart import BART, tiny_bart
from optimum_grail.architectures.mpnet import tiny_mpnet
from optimum_grail.architectures.t5 import T5, tiny_mt5, tiny_t5, tiny_t5_encoder
from optimum_grail.data.batches import make_batches
from optimum_grail.errors import ArchitectureError, BlocksMissingError, CheckpointError
from optimum_grail.models.hook import install
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import config_updates, expressible, is_standalone, write_config_
from optimum_grail.models.surgery import narrow_
from optimum_grail.streams.blocks import Batches
from optimum_grail.streams.capture import order_of

install()


def test_an_encoder_alone_has_the_patterns_that_it_has() -> None:
    layout = resolve(tiny_t5_encoder())
    assert [stack.name for stack in layout.stacks] == ["encoder.block.0.layer", "encoder.block.1.layer"]
    with pytest.raises(BlocksMissingError, match=r"encoder\.block\.\*\.layer\.\*, decoder"):
        resolve(tiny_t5().encoder, T5)


def test_each_chain_has_the_mask_of_its_pattern() -> None:
    layout = resolve(tiny_bart())
    assert [stack.mask for stack in layout.stacks] == ["attention_mask", "decoder_attention_mask"]
    assert layout.mask == "decoder_attention_mask", "that of what the model puts out"
    unmasked = resolve(tiny_bart(), replace(BART, masks=((BART.blocks[1], None),)))
    assert [stack.mask for stack in unmasked.stacks] == ["attention_mask", None]
    assert {stack.mask for stack in resolve(tiny_t5()).stacks[2:]} == {"decoder_attention_mask"}
    assert resolve(tiny_mpnet()).stacks[0].mask == "attention_mask"


def test_padding_of_the_decoder_is_left_out_whatever_the_encoder_pads() -> None:
    samples = [
        {
            "input_ids": torch.arange(3, 9),
            "attention_mask": torch.ones(6, dtype=torch.int64),
            "decoder_input_ids": torch.arange(3, 9),
            "decoder_attention_mask": torch.tensor([1, 1, 1, 1, 0, 0]),
        }
    ] * 2
    batches = make_batches(samples, batch_size=2)
    encoder, decoder = (Batches.of(batches, stack.mask) for stack in resolve(tiny_bart()).stacks)
    assert encoder.masks == [None]
    assert decoder.masks[0] is not None and decoder.masks[0].sum() == 8


def test_two_fields_of_one_config_are_told_apart() -> None:
    model = tiny_bart()
    layout = resolve(model)
    widths = {group.name: group.units // 2 for group in layout.groups if group.kind == "mlp"}
    (update,) = config_updates(model, layout, widths)
    assert update.fields == {"encoder_ffn_dim": 24, "decoder_ffn_dim": 20} and is_standalone([update])
    uneven = {name: 7 if "encoder.layers.0" in name else units for name, units in widths.items()}
    (update,) = config_updates(model, layout, uneven)
    assert update.fields == {"decoder_ffn_dim": 20}
    assert update.layers == {"encoder.layers.0": {"encoder_ffn_dim": 7}, "encoder.layers.1": {"encoder_ffn_dim": 24}}


def test_a_width_that_the_config_has_no_word_for_is_in_the_table_where_it_changes() -> None:
    model = tiny_bart()
    layout = resolve(model)
    (cross,) = (group for group in layout.of_block("model.decoder.layers.1") if group.name.endswith("cross"))
    assert expressible(model, layout, cross, 2) and not expressible(model, layout, cross, 1)
    (update,) = config_updates(model, layout, {})
    assert not update.layers and is_standalone([update])
    (update,) = config_updates(model, layout, {cross.name: 1})
    assert update.layers == {"decoder.layers.1": {"cross_attention_heads": 1}}


def test_stacks_of_blocks_that_hand_more_on_follow_each_other() -> None:
    model = tiny_t5()
    layout = resolve(model)
    sample = {"input_ids": torch.arange(3, 9), "decoder_input_ids": torch.arange(3, 7)}
    order = order_of(model, layout.blocks, make_batches([sample] * 2, batch_size=1)[0])
    assert order.free == ("encoder.block.0.layer",)
    assert order.fed == ("encoder.block.1.layer", "decoder.block.0.layer", "decoder.block.1.layer")


def test_a_layer_that_runs_often_says_what_is_possible() -> None:
    from optimum_grail.architectures.albert import tiny_shared_albert

    model = tiny_shared_albert()
    layout = resolve(model)
    batch = make_batches([{"input_ids": torch.arange(3, 9)}] * 2, batch_size=1)[0]
    with pytest.raises(ArchitectureError, match=r"3 times on one sample.*--selector magnitude --compensator none"):
        order_of(model, layout.blocks, batch)
    narrow_(model, layout.groups[1], 20)
    assert bool(torch.isfinite(model(torch.arange(3, 9)[None]).logits).all())


def test_an_encoder_loads_alone_from_the_checkpoint_of_both(tmp_path: Path) -> None:
    whole = tiny_mt5()
    layout = resolve(whole)
    for place, group in enumerate(layout.groups):
        narrow_(whole, group, group.units - 1 - place % 3)
    write_config_(whole, layout, {})
    whole.save_pretrained(tmp_path)
    alone = MT5EncoderModel.from_pretrained(tmp_path).eval()
    assert [group.units for group in resolve(alone).groups] == [group.units for group in resolve(whole).groups[:4]]
    ids = torch.arange(3, 9)[None]
    assert torch.equal(alone(ids).last_hidden_state, whole.encoder(ids).last_hidden_state)


def test_a_row_of_no_block_is_refused_in_a_part_too(tmp_path: Path) -> None:
    model = tiny_t5_encoder()
    layout = resolve(model)
    narrow_(model, layout.groups[0], 3)
    write_config_(model, layout, {})
    model.config.grail_config["layers"]["decoder.block.9.layer.0"] = {"num_heads": 1}
    model.save_pretrained(tmp_path)
    assert resolve(type(model).from_pretrained(tmp_path)).groups[0].units == 3
    model.config.grail_config["layers"]["encoder.block.9.layer.0"] = {"num_heads": 1}
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"encoder\.block\.9\.layer\.0.*no such layer"):
        type(model).from_pretrained(tmp_path)
