"""Integer attributes that follow a width, on modules or on the config that a module holds."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from optimum_grail.core.spec import Conditions

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def read(model: nn.Module, path: str) -> Any:
    """What ``model`` holds at the dotted ``path``, through modules and what these hold; ``None`` if nothing."""
    found: Any = model
    for name in path.split("."):
        found = found._modules[name] if isinstance(found, nn.Module) and name in found._modules else _own(found, name)
        if found is None:
            return None
    return found


def write_(model: nn.Module, path: str, value: int) -> None:
    """Set the attribute at ``path``. Where a config holds it, the module gets a copy of the config to itself: the other
    layers still have another width."""
    owner, _, name = path.rpartition(".")
    holder = read(model, owner) if owner else model
    if not isinstance(holder, nn.Module):
        holder = copy.copy(holder)
        above, _, its_name = owner.rpartition(".")
        setattr(read(model, above) if above else model, its_name, holder)
    setattr(holder, name, value)


def share_config_(model: nn.Module, path: str, config: PreTrainedConfig) -> None:
    """Undo what :func:`write_` did at ``path``, if it leads through a config: the module holds ``config`` again."""
    owner = path.rpartition(".")[0]
    holder = read(model, owner) if owner else model
    if not isinstance(holder, nn.Module):
        above, _, its_name = owner.rpartition(".")
        setattr(read(model, above) if above else model, its_name, config)


def meets(config: object, conditions: Conditions) -> bool:
    """Whether ``config`` has the values that the conditions of a map ask for."""
    return all(getattr(config, field, None) == value for field, value in conditions)


def _own(holder: object, name: str) -> Any:
    return getattr(holder, name, None)
