"""Every registered map with its tiny example, and models that a map says other things of."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import nn
from transformers import GenerationMixin

from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.architectures._tiny import one_per_kind
from optimum_grail.architectures.albert import tiny_shared_albert
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.deberta_v2 import tiny_deberta_v3
from optimum_grail.architectures.dinov2 import tiny_dinov2_giant, tiny_dinov3_gated
from optimum_grail.architectures.falcon import tiny_multi_query_falcon, tiny_sequential_falcon
from optimum_grail.architectures.gemma import tiny_one_key_gemma3
from optimum_grail.architectures.gpt_bigcode import tiny_many_keys_bigcode
from optimum_grail.architectures.gpt_neox import tiny_sequential_gpt_neox
from optimum_grail.architectures.opt import tiny_opt_350m
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.architectures.siglip import tiny_siglip, tiny_siglip_headless
from optimum_grail.architectures.stablelm import tiny_parallel_stablelm
from optimum_grail.architectures.t5 import tiny_t5_encoder
from optimum_grail.architectures.vit import tiny_beit_plain
from optimum_grail.architectures.wav2vec2 import tiny_wav2vec2_large
from optimum_grail.core.contracts import Refit
from optimum_grail.core.producers import ProducerProblem, Refitted
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.models.hook import install

install()
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "albert-shared": tiny_shared_albert,
    "beit-plain": tiny_beit_plain,
    "deberta-v2-v3": tiny_deberta_v3,
    "dinov2-giant": tiny_dinov2_giant,
    "dinov3_vit-gated": tiny_dinov3_gated,
    "falcon-multi-query": tiny_multi_query_falcon,
    "falcon-sequential": tiny_sequential_falcon,
    "gemma3_text-one-key": tiny_one_key_gemma3,
    "gpt_bigcode-many-keys": tiny_many_keys_bigcode,
    "gpt_neox-sequential": tiny_sequential_gpt_neox,
    "opt-350m": tiny_opt_350m,
    "resnet-basic": tiny_basic,
    "siglip_vision_model-headless": tiny_siglip_headless,
    "stablelm-parallel": tiny_parallel_stablelm,
    "t5-encoder": tiny_t5_encoder,
    "wav2vec2-large": tiny_wav2vec2_large,
}
"""Models of a family whose map says different things of them than of its example, after the model type."""


def family_of(name: str) -> ArchitectureSpec:
    """The map of the model type that ``name`` begins with."""
    return next(spec for family, spec in ARCHITECTURES if name.startswith(f"{family}-"))


MAPS: dict[str, ArchitectureSpec] = {
    **{spec.model_types[0]: spec for spec in ARCHITECTURES.specs()},
    **{name: replace(family_of(name), example=build) for name, build in OTHERS.items()},
}
EXAMPLES: dict[str, Callable[[], nn.Module]] = {
    **{name: spec.example for name, spec in MAPS.items() if spec.example and name not in OTHERS},
    "clip": tiny_clip,
    "siglip": tiny_siglip,
}


@cache
def _built(name: str) -> nn.Module:
    return EXAMPLES[name]()


@pytest.fixture(params=EXAMPLES, name="model")
def _model(request: pytest.FixtureRequest) -> nn.Module:
    return copy.deepcopy(_built(request.param))


@pytest.fixture(params=[spec.model_types[0] for spec in one_per_kind(ARCHITECTURES.specs())] + ["clip"], name="kind")
def _kind(request: pytest.FixtureRequest) -> nn.Module:
    """For what depends on the kind of layer alone."""
    return copy.deepcopy(_built(request.param))


@pytest.fixture(
    params=[name for name in EXAMPLES if isinstance(_built(name), GenerationMixin)],
    name="decoder",
)
def _decoder(request: pytest.FixtureRequest) -> nn.Module:
    return copy.deepcopy(_built(request.param))


@pytest.fixture(name="examples")
def _examples() -> Mapping[str, Callable[[], nn.Module]]:
    return EXAMPLES


@pytest.fixture(params=MAPS, name="named_map")
def _named_map(request: pytest.FixtureRequest) -> tuple[str, ArchitectureSpec]:
    """A map, and the model type of its example, or what is said after the model type of another model."""
    return request.param, MAPS[request.param]


@dataclass(frozen=True)
class Nudge(Refit):
    """Moves every producer a little, wherever to, and says that this was good."""

    def __call__(self, problem: ProducerProblem) -> Refitted:
        """Small changes of random signs, as large as what a look at the data shows."""
        fit, _ = problem.look(None)
        draw = torch.Generator().manual_seed(0)
        outputs = problem.weight.shape[1]
        sides = zip(problem.produce, fit.inputs, strict=True)
        shapes = [(outputs, inputs.shape[product.axis], *product.taps) for product, inputs in sides]
        return Refitted([0.02 * torch.randn(shape, generator=draw) for shape in shapes], 1.0, 0.5)


@pytest.fixture
def nudge() -> Refit:
    """A refit that always changes something."""
    return Nudge()
