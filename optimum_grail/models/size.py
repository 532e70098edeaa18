"""How large a model is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from optimum_grail.models.layout import Layout


@dataclass(frozen=True)
class Size:
    """Size of a model at one moment.

    Args:
        parameters: of the whole model, tied ones once.
        blocks: inside the repeated blocks.
        bytes: of all parameters in the checkpoint's dtype.
    """

    parameters: int
    blocks: int
    bytes: int

    @classmethod
    def of(cls, model: nn.Module, layout: Layout, dtype: torch.dtype) -> Size:
        """Measure ``model``, whose blocks are where ``layout`` says."""
        inside = {id(p): p for s in layout.stacks for path in s.blocks for p in model.get_submodule(path).parameters()}
        parameters = sum(parameter.numel() for parameter in model.parameters())
        width = torch.empty(0, dtype=dtype).element_size()
        return cls(parameters, sum(parameter.numel() for parameter in inside.values()), parameters * width)
