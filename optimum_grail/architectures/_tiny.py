"""Tiny random models that the maps are tested on."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


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
            elif isinstance(tensor, nn.Parameter) and not tensor.any():
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
