"""Dropping whole blocks: an ordinary, shorter model."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from optimum_grail.allocations.uniform import Uniform
from optimum_grail.architectures._tiny import DECODER, tiny
from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.gpt2 import tiny_gpt2
from optimum_grail.architectures.llama import SIZES, tiny_llama
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.architectures.smollm3 import SMOLLM3
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.compensators.grail_plus import GrailPlus
from optimum_grail.data.batches import make_batches
from optimum_grail.errors import ArchitectureError
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.models.depth import drop_blocks_
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import is_standalone, write_config_
from optimum_grail.models.surgery import narrow_
from optimum_grail.report.progress import Silent
from optimum_grail.selectors.obs import Obs

DRAW = torch.Generator().manual_seed(0)
TEXTS = make_batches([{"input_ids": torch.randint(3, 90, (16,), generator=DRAW)} for _ in range(20)], batch_size=5)


def test_the_blocks_that_stay_move_up() -> None:
    model, dense = tiny_llama().eval(), tiny_llama().eval()
    layout = drop_blocks_(model, resolve(model), ["model.layers.1"])
    assert model.config.num_hidden_layers == len(model.model.layers) == 2
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1]
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, dense.model.layers[2].mlp.up_proj.weight)
    found = resolve(model)
    assert layout.groups == found.groups and layout.weights == found.weights and layout.stacks == found.stacks
    assert layout.block_parameters == resolve(dense).block_parameters, "sizes are those before"
    with torch.no_grad():
        ids = TEXTS[0].inputs["input_ids"]
        cached = model.generate(ids, max_new_tokens=4, do_sample=False)
        plain = model.generate(ids, max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(cached, plain)


def test_lists_with_an_entry_per_block_lose_those_that_go() -> None:
    model = SMOLLM3.example()
    drop_blocks_(model, resolve(model), ["model.layers.1"])
    assert model.config.no_rope_layers == [1, 1] and len(model.config.layer_types) == 2


def test_depth_may_depend_on_the_config() -> None:
    """Attention that is scaled by the number of its layer would be scaled otherwise once it has moved up."""
    model = tiny("GPT2LMHeadModel", **DECODER, n_positions=32, scale_attn_by_inverse_layer_idx=True)()
    assert resolve(tiny_gpt2()).stacks[0].spec.depth_field == "n_layer"
    assert resolve(model).stacks[0].spec.depth_field is None
    with pytest.raises(ArchitectureError, match="cannot say a number of layers"):
        drop_blocks_(model, resolve(model), ["transformer.h.0"])


@pytest.mark.parametrize("build", [tiny_bert, tiny_vit], ids=["bert", "vit"])
def test_other_families_save_and_load(build, tmp_path: Path) -> None:
    model = build().eval()
    path = resolve(model).stacks[0].blocks[0]
    layout = drop_blocks_(model, resolve(model), [path])
    assert is_standalone(write_config_(model, layout, {}))
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.config.num_hidden_layers == len(layout.stacks[0].blocks)
    assert set(again.state_dict()) == set(model.state_dict())


def test_towers_are_shortened_by_themselves(tmp_path: Path) -> None:
    model = tiny_clip().eval()
    drop_blocks_(model, resolve(model), ["text_model.encoder.layers.0"])
    assert (model.config.text_config.num_hidden_layers, model.config.vision_config.num_hidden_layers) == (1, 2)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert (len(again.text_model.encoder.layers), len(again.vision_model.encoder.layers)) == (1, 2)


def test_the_kinds_of_layers_follow() -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    config = Qwen2Config(**SIZES, layer_types=kinds, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    model = Qwen2ForCausalLM(config).eval()
    drop_blocks_(model, resolve(model), ["model.layers.1"])
    assert model.config.layer_types == ["full_attention", "full_attention"]


def test_the_table_names_layers_by_their_new_places(tmp_path: Path) -> None:
    model = tiny_llama().eval()
    layout = resolve(model)
    narrow_(model, layout.group("model.layers.2.mlp"), 20)
    left = drop_blocks_(model, layout, ["model.layers.0"])
    write_config_(model, left, {})
    assert model.config.grail_config["layers"] == {"1": {"intermediate_size": 20}}
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert [layer.mlp.up_proj.out_features for layer in again.model.layers] == [48, 20]


def test_what_cannot_be_dropped_is_refused_and_nothing_changes() -> None:
    model = tiny_llama()
    with pytest.raises(ArchitectureError, match=r"All blocks.*would go"):
        drop_blocks_(model, resolve(model), list(resolve(model).stacks[0].blocks))
    net = tiny_basic()
    with pytest.raises(ArchitectureError, match="cannot say a number of layers"):
        drop_blocks_(net, resolve(net), [resolve(net).stacks[0].blocks[0]])
    assert len(model.model.layers) == model.config.num_hidden_layers == 3
    assert drop_blocks_(model, resolve(model), []) == resolve(model)


def test_the_student_passes_dropped_blocks_by_and_the_consumers_around_them_make_up_for_them() -> None:
    dense = tiny_llama().eval()
    ids = torch.cat([batch.inputs["input_ids"] for batch in TEXTS])
    with torch.no_grad():
        wanted = dense(ids).logits
    errors = {}
    for tau in (0.0, 1.0):
        model = copy.deepcopy(dense)
        layout = resolve(model)
        widths = dict(layout.widths)
        methods = Methods(Obs(), GrailPlus(tau=tau), Uniform())
        plan = FitRun(model, layout, methods, widths, TEXTS, 0, Silent(), ("model.layers.1",)).run_()
        assert list(plan) == ["model.layers.0.mlp", "model.layers.2.heads", "model.layers.2.mlp"]
        drop_blocks_(model, layout, ["model.layers.1"])
        with torch.no_grad():
            errors[tau] = float((model(ids).logits - wanted).square().mean())
    assert errors[1.0] < errors[0.0]


@pytest.mark.parametrize("dropped", [("model.layers.0",), ("model.layers.2",), ("model.layers.0", "model.layers.1")])
def test_the_consumer_before_is_fitted_to_the_dense_stream_behind(dropped: tuple[str, ...]) -> None:
    """At either end of the stack too; what is refitted is what has a dense counterpart to drift from."""
    dense = tiny_llama().eval()
    model = copy.deepcopy(dense)
    layout = resolve(model)
    methods = Methods(Obs(), GrailPlus(ridge=1e-8, tau=1.0), Uniform())
    ungated = [replace(batch, split="fit") for batch in TEXTS]
    plan = FitRun(model, layout, methods, dict(layout.widths), ungated, 0, Silent(), dropped).run_()
    kept = [path for path in layout.stacks[0].blocks if path not in dropped]
    first = "model.layers.1.mlp" if dropped == ("model.layers.2",) else f"{kept[0]}.heads"
    assert next(iter(plan)) == first
    rows: dict[str, list[torch.Tensor]] = {"z": [], "now": [], "wanted": []}
    last = model.get_submodule(kept[-1])
    last.mlp.down_proj.register_forward_pre_hook(lambda module, args: rows["z"].append(args[0].flatten(0, 1)))
    last.register_forward_hook(lambda module, args, output: rows["now"].append(output.flatten(0, 1)))
    dense.model.layers[-1].register_forward_hook(lambda m, args, output: rows["wanted"].append(output.flatten(0, 1)))
    drop_blocks_(model, layout, dropped)
    with torch.no_grad():
        for batch in TEXTS:
            model(**batch.inputs)
            dense(**batch.inputs)
    z, now, wanted = (torch.cat(rows[key]).double() for key in ("z", "now", "wanted"))
    gradient = (wanted - now).T @ z / (z.square().sum(0).sqrt() * (wanted - now).norm())
    assert float(gradient.abs().max()) < 1e-3, "what is left is no linear function of the features"
