"""Attention that has lost heads, and is called with something that holds a slice for each head that it had.

A position bias that many layers share has a slice per head of the dense layer. A layer that has lost heads takes its
own slices of it; what it hands on to others stays whole.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup, HeadArgument

SHARES = "head_shares"
"""Name of the buffer that says which heads are left; it is saved with the weights."""


class Picking(nn.Module):
    """Mixin that goes before the class of such an attention module."""

    head_arguments: tuple[HeadArgument, ...]
    """What the module is called with and holds a slice per head of the dense layer."""
    head_shares: Tensor
    """``[heads left, heads of the dense layer]``: what each head makes of the dense layer's; one 1 in a row, or the
    weights of a mean where heads were folded."""

    def forward(self, *args: object, **kwargs: object) -> Any:
        """What the attention makes of the slices of its own heads."""
        call = inspect.signature(super().forward).bind(*args, **kwargs)
        whole: dict[str, object] = {}
        for argument in self.head_arguments:
            value = call.arguments.get(argument.name)
            if value is None and argument.make is not None:
                value = argument.make(self, call.arguments)
            whole[argument.name] = value
            if isinstance(value, Tensor):
                picked = torch.tensordot(self.head_shares.to(value), value, ([1], [1]))
                call.arguments[argument.name] = picked.movedim(0, 1).contiguous()
        output = super().forward(*call.args, **call.kwargs)
        places = {argument.returned: whole[argument.name] for argument in self.head_arguments}
        if not isinstance(output, tuple):
            return output
        return tuple(places.get(place, value) for place, value in enumerate(output))


@functools.cache
def _picking(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Picking{kind.__name__}", (Picking, kind), {})


def pick_heads_(model: nn.Module, group: ChannelGroup, encode: Callable[[Tensor, int], Tensor]) -> None:
    """Let the attention of ``group`` pick what belongs to the heads that ``encode`` leaves; it may have done so before.

    The module keeps its parameters' names and gets a subclass of its class.
    """
    module: Any = model.get_submodule(str(group.attention))
    _, per_unit = group.fields[0]
    if not isinstance(module, Picking):
        weight = model.get_submodule(group.consumer.module).get_parameter("weight")
        whole = torch.eye(group.units * per_unit, dtype=weight.dtype, device=weight.device)
        module.register_buffer(SHARES, whole)
        module.head_arguments = group.arguments
        kind: Any = type(module)
        module.__class__ = _picking(kind)
    module.head_shares = encode(module.head_shares, per_unit).contiguous()
