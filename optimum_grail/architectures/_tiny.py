"""Tiny random models that the maps are tested on."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import nn

from optimum_grail.core.groups import AT_OUTPUT
from optimum_grail.core.spec import ArchitectureSpec, Conv, Experts, GroupSpec, Heads, Strip


def seeded(build: Callable[[], Any]) -> nn.Module:
    """Build a model with fixed random weights, in eval mode, leaving the global random state alone.

    Vectors (biases, norms, running statistics) are perturbed too, and what is all zero (tables of position biases):
    freshly initialised they would hide a map that forgets them.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: nn.Module = build()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or "inv_freq" in name:
                continue
            if tensor.dim() == 1:
                tensor.mul_(0.75 + 0.5 * torch.rand_like(tensor)).add_(0.1 * torch.rand_like(tensor))
            elif isinstance(tensor, nn.Parameter) and not tensor.is_meta and not tensor.any():
                tensor.normal_()
    return model.eval()


def tiny(name: str, **config: object) -> Callable[[], nn.Module]:
    """A function that builds the class ``name`` of transformers, seeded, from its config class with these values."""

    def build() -> nn.Module:
        """The model, the same at every call."""
        kind: Any = getattr(importlib.import_module("transformers"), name)
        return seeded(lambda: kind(kind.config_class(**config)))

    build.__name__ = f"tiny_{name}"
    return build


WELL_KNOWN = frozenset({"llama", "bert", "vit"})
"""Families that stand for all of their kind."""


def one_per_kind(specs: Iterable[ArchitectureSpec]) -> list[ArchitectureSpec]:
    """Some of the specs, in which every kind of layer and of stack is found: for tests that take long.

    Layers of one kind differ in names alone.
    """
    seen: set[Hashable] = set()
    found = []
    for spec in sorted(specs, key=lambda spec: not WELL_KNOWN & set(spec.model_types)):
        kinds = {("stack", spec.main_input, spec.chain, len(spec.blocks)), *map(_layer, spec.groups)}
        if not kinds <= seen:
            found.append(spec)
            seen |= kinds
    return found


def _layer(group: GroupSpec) -> Hashable:
    if isinstance(group, Experts):
        return "Experts", group.stream, bool(group.factor)
    sources = (group.query,) if isinstance(group, Heads) else group.produce
    strips = {source.interleaved for source in sources if isinstance(source, Strip)}
    seen = group.stream if group.stream in (None, AT_OUTPUT) else "inside"
    told = (group.factor, group.mixes, group.channelwise, group.when, not isinstance(group, Conv) and group.uniform)
    shared = isinstance(group, Heads) and group.shared == ()
    beside = (group.also, group.tables, group.arguments) if isinstance(group, Heads) else ()
    return type(group).__name__, seen, tuple(strips), shared, tuple(map(bool, (*told, *beside)))


DECODER: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Sizes of a small decoder, in the fields that most configs have: three layers, 8 query heads."""
GROUPED: dict[str, Any] = {
    **DECODER,
    "intermediate_size": 48,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
}
"""The same with 4 key-value heads and 48 feed-forward channels."""
WIDE_HEADS: dict[str, Any] = {**GROUPED, "head_dim": 8}
"""The same with heads of 8 dimensions, which are not hidden_size / heads."""
