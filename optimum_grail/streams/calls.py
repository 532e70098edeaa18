"""What a module is called with: recorded as it comes, compared, and put back in front of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from optimum_grail.data.batches import Batch
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.residence import device_of
from optimum_grail.streams.hooks import first


@dataclass(frozen=True)
class Call:
    """Everything one block was called with on one batch, but for the hidden state.

    Args:
        args: positional arguments after the hidden state.
        kwargs: keyword arguments.
        name: keyword of the hidden state, or ``None`` if it came first by position.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str | None = None

    @classmethod
    def of(cls, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Call]:
        """The hidden state that the block at ``path`` was called with, and the rest of the call.

        Raises:
            ArchitectureError: a cache is among the arguments.
        """
        if any(_has_cache(value) for value in args) or any(_has_cache(kwargs[name], name) for name in kwargs):
            raise ArchitectureError(
                f"Block {path!r} is called with a cache of keys and values, which would remember one calibration batch "
                "while another is run. Set use_cache=False in the model's config before compressing it."
            )
        if args:
            return args[0], cls(args[1:], kwargs)
        name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
        rest = {key: value for key, value in kwargs.items() if key != name}
        return kwargs[name], cls((), rest, name)

    def run(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """The block's output for ``hidden``."""
        if self.name is not None:
            return first(block(*self.args, **{**self.kwargs, self.name: hidden}))
        return first(block(hidden, *self.args, **self.kwargs))


def _has_cache(value: Any, name: str = "") -> bool:
    """Whether an argument is a cache: transformers' own, the older tuples of keys and values, or something with one."""
    if isinstance(value, Cache):
        return True
    if isinstance(value, Mapping):
        return any(_has_cache(item, key) for key, item in value.items())
    if isinstance(value, tuple | list):
        return ("past" in name and len(value) > 0) or any(_has_cache(item) for item in value)
    return False


def on_device(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """The batch's inputs on the model's device, plus ``use_cache=False`` where the model or a part of it has caches."""
    device = device_of(model)
    inputs: dict[str, Any] = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
    if _uses_cache(getattr(model, "config", None)) and _takes(model, "use_cache"):
        inputs["use_cache"] = False
    return inputs


def _uses_cache(config: Any) -> bool:
    """Whether a config, or that of a part of the model (the language model of an image-text model), asks for caches."""
    if getattr(config, "use_cache", None):
        return True
    return any(_uses_cache(getattr(config, name, None)) for name in getattr(config, "sub_configs", ()))


def _takes(model: nn.Module, name: str) -> bool:
    parameters = inspect.signature(model.forward).parameters
    return name in parameters or any(item.kind is item.VAR_KEYWORD for item in parameters.values())


def difference(one: Any, other: Any, name: str, tolerance: float = 0.0) -> str | None:
    """Where two arguments differ: the name of the first part that does, ``None`` if they are the same.

    Tensors and numbers are compared, inside tuples, lists and mappings too; of other objects only the type is.

    Args:
        one: an argument.
        other: what it should be.
        name: what to call it.
        tolerance: difference of tensors relative to their Euclidean norm that still counts as none.
    """
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return None if same(one, other, tolerance) else name
    parts: Iterator[tuple[str, Any, Any]]
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        names = [*one, *(key for key in other if key not in one)]
        parts = ((f"{name}[{key!r}]", one.get(key), other.get(key)) for key in names)
    elif isinstance(one, Sequence) and isinstance(other, Sequence) and not isinstance(one, str):
        if len(one) != len(other):
            return name
        parts = ((f"{name}[{index}]", left, right) for index, (left, right) in enumerate(zip(one, other, strict=True)))
    elif isinstance(one, str | int | float | None):
        return None if one == other else name
    else:
        return None if type(one) is type(other) else name
    found = (difference(left, right, part, tolerance) for part, left, right in parts)
    return next((part for part in found if part is not None), None)


def same(one: Tensor, other: Tensor, tolerance: float = 0.0) -> bool:
    """Equal, NaN included: overflowing activations are for the statistics to refuse, in better words."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    one, other = one.nan_to_num(), other.nan_to_num()
    if torch.equal(one, other):
        return True
    return one.is_floating_point() and bool((one - other).norm() <= tolerance * other.norm())
