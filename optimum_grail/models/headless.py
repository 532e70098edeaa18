"""Attention that has lost all its heads: a sub-block that went altogether.

Linear layers of width 0 are ordinary: they pass tensors without elements on, and the last one puts out its bias. Only
the code that splits features into heads cannot count heads of nothing, so such a module gets a forward of its own.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup

if TYPE_CHECKING:
    from transformers import Cache


class Headless(nn.Module):
    """Mixin that goes before the class of an attention module without heads."""

    headless_out: str
    """The consumer inside this module, ``""`` if it lies after it."""

    def forward(
        self, hidden_states: Tensor, *args: object, past_key_values: Cache | None = None, **kwargs: object
    ) -> tuple[Tensor, None]:
        """Nothing attended to: what the consumer makes of no features; there are no attention weights.

        A key-value cache is told one number per token: the length of what it has seen is read off its first layer.
        """
        if past_key_values is not None:
            seen = hidden_states.new_zeros(len(hidden_states), 1, hidden_states.shape[1], 1)
            own = getattr(past_key_values, "self_attention_cache", past_key_values)  # of an encoder and decoder
            own.update(seen, seen, self.layer_idx)
        nothing = hidden_states.new_empty(*hidden_states.shape[:-1], 0)
        return (self.get_submodule(self.headless_out)(nothing) if self.headless_out else nothing), None


@functools.cache
def _headless(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Headless{kind.__name__}", (Headless, kind), {})


def take_heads_(model: nn.Module, group: ChannelGroup) -> None:
    """Let the attention of ``group``, whose projections have no rows left, pass tokens by. Doing it twice is harmless.

    The module keeps its parameters' names and gets a subclass of its class, so that what looks for that class still
    finds it. It has to take hidden states first and return a pair, as attention in transformers does.
    """
    module: Any = model.get_submodule(str(group.attention))
    if isinstance(module, Headless):
        return
    prefix = f"{group.attention}."
    path = group.consumer.module
    module.headless_out = path.removeprefix(prefix) if path.startswith(prefix) else ""
    kind: Any = type(module)
    module.__class__ = _headless(kind)
