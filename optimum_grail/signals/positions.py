"""How often modules are used, for FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from optimum_grail.data.batches import Batch
from optimum_grail.models.layout import Layout
from optimum_grail.signals import SIGNALS, Dense, Signal, Tensors
from optimum_grail.streams.calls import on_device
from optimum_grail.streams.hooks import first, hooked
from optimum_grail.streams.probe import Wanted


@SIGNALS.register
@dataclass(frozen=True)
class Positions(Signal):
    """See :func:`positions`."""

    wanted: ClassVar[Wanted | None] = None

    def before(self, dense: Dense) -> Tensors:
        """One forward pass of one sample."""
        return positions(dense.model, dense.layout, dense.batches.sample)


@torch.no_grad()
def positions(model: nn.Module, layout: Layout, batch: Batch) -> dict[str, Tensor]:
    """Of every module with parameters inside the blocks: at how many positions (tokens, pixels) of one sample they are
    used, and how many they are; int64 ``[2]``, by path."""
    found: dict[str, Tensor] = {}

    def hook(path: str, size: int) -> Callable[..., None]:
        """A hook for the module at ``path`` with ``size`` parameters."""

        def count(module: nn.Module, args: object, output: object) -> None:
            """Note the positions of one sample."""
            output = first(output)
            maps = output.dim() == 4 and not isinstance(module, nn.Linear)  # feature maps [B, C, H, W]
            channels = output.shape[1 if maps else -1]
            found[path] = torch.tensor([output[0].numel() // max(channels, 1), size])

        return count

    hooks = []
    for stack in layout.stacks:
        for block in stack.blocks:
            for local, module in model.get_submodule(block).named_modules():
                size = sum(parameter.numel() for parameter in module.parameters(recurse=False))
                if size:
                    hooks.append((module, hook(f"{block}.{local}".rstrip("."), size)))
    with hooked(after=hooks):
        model(**on_device(model, batch.head()))
    return found
