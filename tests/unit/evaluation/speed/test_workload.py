"""What the models compute, and how many operations that is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from optimum_grail.checkpoints.loading import load_skeleton
from optimum_grail.errors import ArchitectureError, ConfigError
from optimum_grail.evaluation.speed.speed_test import SpeedTest
from optimum_grail.evaluation.speed.workload import Workload, kind_of


def prepared(*paths, **sizes):
    return SpeedTest(paths, **sizes).prepare()


@pytest.mark.parametrize(
    ("name", "kind", "names", "parts"),
    [
        ("llama", "generation", ["input_ids", "attention_mask"], ("prefill", "decode")),
        ("bert", "sequences", ["input_ids", "attention_mask"], ("forward",)),
        ("vit", "images", ["pixel_values"], ("forward",)),
        ("resnet", "images", ["pixel_values"], ("forward",)),
        ("clip", "pairs", ["input_ids", "attention_mask", "pixel_values"], ("forward",)),
    ],
)
def test_every_kind_gets_inputs_that_it_takes(folders, name, kind, names, parts):
    sizes = {"prompt_tokens": 20, "new_tokens": 5} if name == "llama" else {}
    found = prepared(folders[name], folders[name], **sizes)
    assert (found.workload.kind, found.workload.parts) == (kind, parts)
    inputs = found.workload.inputs(3, load_skeleton(folders[name]))
    assert list(inputs) == names and all(len(tensor) == 3 and tensor.is_meta for tensor in inputs.values())
    assert found.notes == () and all(value > 0 for value in found.flops[0].values())
    eight, one = (found.flops[0][parts[0], batch] for batch in (8, 1))
    assert eight == pytest.approx(8 * one, rel=1e-3), "of pairs, every image is held against every text"


def test_inputs_are_the_same_for_all_and_of_another_seed_others(folders):
    model = nn.Linear(2, 2)
    one, two, other = (Workload("sequences", 9, 0, 50, seed=seed).inputs(2, model)["input_ids"] for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert one.max() < 50


def test_sizes_come_from_the_config(folders):
    assert prepared(folders["vit"], folders["vit"]).workload.image == (3, 16, 16)
    assert prepared(folders["resnet"], folders["resnet"]).workload.image == (3, 224, 224), "its config names none"
    assert prepared(folders["bert"], folders["bert"], prompt_tokens=10**6).workload.tokens == 128, (
        "what the model takes"
    )
    assert prepared(folders["bert"], folders["bert"], prompt_tokens=10).workload.tokens == 10


def test_operations_of_prefill_and_decode_are_those_of_the_formula(folders):
    config = load_skeleton(folders["llama"]).config
    prompt, new, batch = 20, 9, 2
    width, heads, size = config.hidden_size, config.num_attention_heads, config.head_dim
    linears = 2 * width * heads * size + 2 * width * config.num_key_value_heads * size
    linears += 3 * width * config.intermediate_size
    head = 2 * width * config.vocab_size

    def layers(tokens, context):
        return config.num_hidden_layers * (2 * tokens * linears + 2 * 2 * tokens * context * heads * size)

    found = prepared(folders["llama"], folders["llama"], prompt_tokens=prompt, new_tokens=new).flops[0]
    rotary = 2 * config.head_dim // 2  # of the angles, per token
    assert found["prefill", 8] == pytest.approx(8 * (layers(prompt, prompt) + head), abs=8 * rotary * prompt)
    step = layers(1, prompt + new // 2 + 1) + head
    assert found["decode", 8] == pytest.approx(8 * (new - 1) * step, abs=8 * (new - 1) * rotary)
    workload = prepared(folders["llama"], folders["llama"], prompt_tokens=prompt, new_tokens=new).workload
    assert (workload.amount("prefill", batch), workload.amount("decode", batch)) == (40, 16)


@pytest.mark.parametrize(
    ("names", "sizes", "message"),
    [
        (("llama",), {}, "compares nothing"),
        (("llama", "vit"), {}, "'.*llama' is one of the causal language models, '.*vit' one of the models of images"),
        (("vit", "resnet"), {}, r"takes images of \(3, 16, 16\)"),
        (("llama", "llama"), {"prompt_tokens": 124, "new_tokens": 5}, "are 129 tokens; '.*llama' has a context of 128"),
        (("llama", "llama"), {"prompt_tokens": 6, "new_tokens": 1}, "expected at least 2"),
        (("bert", "bert"), {"new_tokens": 5}, "encoders of text generate nothing"),
        (("vit", "vit"), {"prompt_tokens": 5}, "models of images read no text"),
        (("vit", "vit"), {"batch_sizes": (1, 0)}, "expected whole numbers >= 1"),
        (("vit", "vit"), {"batch_sizes": ()}, "expected whole numbers >= 1"),
        (("vit", "vit"), {"repeats": 1}, "expected at least 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(folders, names, sizes, message):
    with pytest.raises(ConfigError, match=message):
        prepared(*(folders[name] for name in names), **sizes)


def test_models_of_other_kinds_are_refused(fed):
    with pytest.raises(ArchitectureError, match="cannot be measured here"):
        kind_of(fed.model, type(fed.model).__name__)
