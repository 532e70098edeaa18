"""How large a model is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from optimum_grail.models.layout import Layout
from optimum_grail.models.residence import parameters_of


@dataclass(frozen=True)
class Size:
    """Size of a model at one moment.

    Args:
        parameters: of the whole model, tied ones once.
        blocks: inside the repeated blocks.
        bytes: of all parameters, each in its own dtype.
    """

    parameters: int
    blocks: int
    bytes: int

    @classmethod
    def of(cls, model: nn.Module, layout: Layout) -> Size:
        """Measure ``model``, whose blocks are where ``layout`` says, in the dtypes that it has now: those of its
        checkpoint, unless it has been cast to be computed with."""
        inside = {id(p): p for s in layout.stacks for path in s.blocks for p in model.get_submodule(path).parameters()}
        parameters = parameters_of(model)
        return cls(
            parameters=sum(parameter.numel() for parameter in parameters),
            blocks=sum(parameter.numel() for parameter in inside.values()),
            bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        )
