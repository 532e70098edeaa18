"""Tiny random models that the maps are tested on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def seeded(build: Callable[[], Any]) -> nn.Module:
    """Build a model with fixed random weights, in eval mode, leaving the global random state alone.

    Vectors (biases, norms, running statistics) are perturbed too: freshly initialised ones are all zero or one, which
    would hide a map that forgets them.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: nn.Module = build()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and tensor.dim() == 1 and "inv_freq" not in name:
                tensor.mul_(0.75 + 0.5 * torch.rand_like(tensor)).add_(0.1 * torch.rand_like(tensor))
    return model.eval()
