"""Whether the tensors of a module are still those that they were."""

from __future__ import annotations

import weakref
from collections.abc import Mapping

from torch import Tensor, nn

Stamp = tuple["weakref.ref[Tensor]", int]
"""A tensor as it is: another one in its place, or another value in it, has another stamp. It keeps nothing alive."""


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """The parameter or buffer ``name``."""
    home, _, local = name.rpartition(".")
    owner = module.get_submodule(home)
    found = owner._parameters.get(local)
    return owner.get_buffer(local) if found is None else found


def stamp(module: nn.Module, name: str) -> Stamp:
    """Of the tensor ``name`` at this moment."""
    tensor = tensor_of(module, name)
    return weakref.ref(tensor), tensor._version


def is_as(module: nn.Module, before: Mapping[str, Stamp]) -> bool:
    """Whether the module's tensors are those of ``before``, by name, untouched, and no others."""
    now = {name for name, _ in module.named_parameters(recurse=any("." in name for name in before))}
    if not now <= before.keys():
        return False
    tensors = {name: tensor_of(module, name) for name in before}
    return all(ref() is tensors[name] and tensors[name]._version == version for name, (ref, version) in before.items())
