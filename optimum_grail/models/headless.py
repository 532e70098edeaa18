"""Attention that has lost all its heads: a sub-block that went altogether.

Linear layers of width 0 are ordinary: they pass tensors without elements on, and the last one puts out its bias. Only
the code that splits features into heads cannot count heads of nothing, and transformers' ``Conv1D`` cannot count tokens
of nothing, so such modules get a forward of their own.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache

from optimum_grail.core.groups import ChannelGroup


class Headless(nn.Module):
    """Mixin that goes before the class of an attention module without heads."""

    headless_out: str
    """The consumer inside this module, ``""`` if it lies after it."""

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, None]:
        """Nothing attended to: what the consumer makes of no features; there are no attention weights.

        A key-value cache, whatever its argument is called, is told one number per token: the length of what it has seen
        is read off its first layer.
        """
        for cache in (value for value in (*args, *kwargs.values()) if isinstance(value, Cache)):
            seen = hidden_states.new_zeros(len(hidden_states), 1, hidden_states.shape[1], 1)
            own = getattr(cache, "self_attention_cache", cache)  # of an encoder and decoder
            own.update(seen, seen, vars(self).get("layer_idx", vars(self).get("layer_id")))
        nothing = hidden_states.new_empty(*hidden_states.shape[:-1], 0)
        return (self.get_submodule(self.headless_out)(nothing) if self.headless_out else nothing), None


class Featureless(nn.Module):
    """Mixin that goes before the class of a consumer that cannot do without features (transformers' ``Conv1D``)."""

    def forward(self, features: Tensor) -> Tensor:
        """The bias for every token, shape ``[..., O]``."""
        bias = self.get_parameter("bias")
        return bias.expand(*features.shape[:-1], len(bias))


@functools.cache
def _mixed(mixin: type[nn.Module], kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"{mixin.__name__}{kind.__name__}", (mixin, kind), {})


def take_features_(consumer: nn.Module) -> None:
    """Let a consumer whose columns are all gone put out its bias. Layers of torch do already."""
    if not isinstance(consumer, (nn.Linear, nn.Conv2d, Featureless)):
        _mix_in_(consumer, Featureless)


def _mix_in_(module: Any, mixin: Any) -> None:
    kind: Any = type(module)
    module.__class__ = _mixed(mixin, kind)


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
    _mix_in_(module, Headless)
