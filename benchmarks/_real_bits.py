"""Weights of fewer bits: those of the linear layers inside the blocks, through torchao."""

from __future__ import annotations

import torch
from torch import nn

GROUP = 32
"""Weights of a row that share a scale, at four bits; at eight, all of a row."""
PLAIN = 16
"""Bits of a weight that is not rounded, and of a scale, as checkpoints have them."""


def inside_blocks(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Linear layers but for heads: those whose path has a number in it, and that hold anything."""
    return [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(part.isdigit() for part in path.split(".")) and module.weight.numel()
    ]


def round_(model: nn.Module, bits: int) -> None:
    """Round the weights in place; 0 bits: leave them as they are. A width that is no multiple of the group has one
    scale per row."""
    if not bits:
        return
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup

    chosen = dict(inside_blocks(model))
    kind = getattr(torch, f"int{bits}")
    grouped = {path for path, module in chosen.items() if bits == 4 and module.in_features % GROUP == 0}
    for names, granularity in ((grouped, PerGroup(GROUP)), (chosen.keys() - grouped, PerAxis(0))):
        config = IntxWeightOnlyConfig(weight_dtype=kind, granularity=granularity)
        quantize_(model, config, filter_fn=lambda _, path, names=names: path in names)


def bytes_of(model: nn.Module, bits: int) -> int:
    """Bytes of all weights of a model that is not rounded yet, were it saved with so many bits: rounded weights and
    their scales, all else at 16 bits."""
    total = sum(parameter.numel() for parameter in model.parameters()) * PLAIN
    if bits:
        for _, module in inside_blocks(model):
            rows, columns = module.weight.shape
            groups = columns // GROUP if bits == 4 and columns % GROUP == 0 else 1
            total += rows * columns * (bits - PLAIN) + rows * groups * PLAIN
    return total // 8
