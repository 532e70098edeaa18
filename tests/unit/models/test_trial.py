"""Natural but wrong maps of OLMo-2, T5 and ConvNeXt end in words before any long work, and the remedy told works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail import GrailCompressor
from optimum_grail.architectures.llama import LLAMA
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.check import inputs_for, outputs_of
from optimum_grail.models.hook import install
from optimum_grail.models.resolve import resolve
from optimum_grail.models.trial import try_widths

install()
Maps = Mapping[str, ArchitectureSpec]


def samples(model: nn.Module, spec: ArchitectureSpec) -> list[dict[str, Tensor]]:
    """Twelve samples of unlike content."""
    generator = torch.Generator().manual_seed(3)
    made = inputs_for(model, replace(spec, mask=None))
    return [
        {
            name: torch.randn(value.shape[1:], generator=generator)
            if value.is_floating_point()
            else torch.randint(3, 90, value.shape[1:], generator=generator)
            for name, value in made.items()
        }
        for _ in range(12)
    ]


def compressed(spec: ArchitectureSpec, **settings: Any) -> nn.Module:
    """The map's example, a fifth of its blocks' parameters gone."""
    model = spec.example()
    config = {"sparsity": 0.2, "num_samples": 12, "allocation": "uniform", **settings}
    GrailCompressor(model, config, spec=spec).compress(samples(model, spec))
    return model


NATURAL = {
    "olmo2": (
        {"groups": LLAMA.groups, "chain": "pattern"},
        r"code of model.layers.0.self_attn.q_norm fails.*name it in channelwise.*otherwise leave the group out",
    ),
    "t5": (
        {"blocks": ("encoder.block.*",), "chain": "pattern"},
        r"'encoder.block.0' hands 'encoder.block.1' more than a hidden state.*'encoder.block.0.layer.1.DenseReluDense'",
    ),
    "convnext": ({"chain": "pattern"}, r"stages.1.layers.0.*chain='container'"),
}


@pytest.mark.parametrize("name", NATURAL)
def test_natural_maps_are_refused_and_the_remedy_works(name: str, maps: Maps) -> None:
    fields, message = NATURAL[name]
    wrong: Any = replace(maps[name], **fields)  # type: ignore[arg-type]
    if name == "t5":
        wrong = replace(wrong, groups=(replace(wrong.groups[0], **PREFIXED),))
    with pytest.raises(ArchitectureError, match=message):
        compressed(wrong)
    dense, small = maps[name].example(), compressed(maps[name])
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in dense.parameters())
    with torch.no_grad():
        assert all(bool(tensor.isfinite().all()) for tensor in outputs_of(small, inputs_for(small, maps[name])))


PREFIXED = {"produce": ("layer.1.DenseReluDense.wi",), "consume": "layer.1.DenseReluDense.wo"}


def test_the_other_remedy_for_a_norm_over_all_heads_is_to_leave_the_heads_out(maps: Maps) -> None:
    spec = replace(maps["olmo2"], groups=maps["olmo2"].groups[1:])
    small = compressed(spec)
    assert small.model.layers[0].self_attn.q_proj.out_features == 32
    assert small.model.layers[0].mlp.up_proj.out_features < 48


def test_nothing_of_the_model_changes(maps: Maps) -> None:
    spec = maps["phi3"]
    model = spec.example()
    before = {name: (id(tensor), tensor.clone()) for name, tensor in model.named_parameters()}
    try_widths(model, resolve(model, spec), {**inputs_for(model, spec), "use_cache": False})
    assert all(
        id(now) == before[name][0] and torch.equal(now, before[name][1]) for name, now in model.named_parameters()
    )
    assert all(layer.self_attn.config is model.config for layer in model.model.layers)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
