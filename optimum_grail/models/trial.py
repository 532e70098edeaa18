"""Before any long work: whether the code of a model's blocks runs at other widths than those it was built with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.models.check import FAILURES, cannot_run, one_per_declaration
from optimum_grail.models.layout import Layout
from optimum_grail.models.surgery import narrow_


@torch.no_grad()
def try_widths(model: nn.Module, layout: Layout, inputs: Mapping[str, Tensor]) -> None:
    """Run one copied block for every declaration of the maps, one unit narrower, on what it is called with.

    Args:
        model: in eval mode; unchanged.
        layout: its stacks and groups.
        inputs: of one sample, on the model's device.

    Raises:
        ArchitectureError: the code of a module fails at another width; the message names it.
    """
    groups = [group for group in one_per_declaration(layout) if group.units > max(group.fewest, 1)]
    calls = _calls(model, {group.block for group in groups}, inputs)
    for group in groups:
        if group.block not in calls:  # not reached by this sample: found out where streams are recorded
            continue
        shell = _alone(model, group.block)
        narrow_(shell, group, group.units - 1)
        args, kwargs = calls[group.block]
        try:
            shell.get_submodule(group.block)(*args, **kwargs)
        except FAILURES as error:
            raise cannot_run(group, group.units - 1, error, shell) from error


class _Seen(Exception):
    """Ends a forward pass once every block wanted has been called. Private: real errors are never swallowed."""


def _calls(
    model: nn.Module, paths: set[str], inputs: Mapping[str, Tensor]
) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """What the blocks at ``paths`` are called with, tensors cloned: residual sums may be made in place."""
    calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def keep(path: str) -> Callable[..., None]:
        """A hook that notes the call of the block at ``path``."""

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            """Keep clones."""
            calls[path] = tuple(map(_clone, args)), {name: _clone(value) for name, value in kwargs.items()}
            if paths <= calls.keys():
                raise _Seen

        return hook

    with ExitStack() as hooks, suppress(_Seen):
        for path in paths:
            handle = model.get_submodule(path).register_forward_pre_hook(keep(path), with_kwargs=True)
            hooks.callback(handle.remove)
        model(**inputs)
    return calls


def _clone(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _alone(model: nn.Module, path: str) -> nn.Module:
    """A copy of the module at ``path``, at that path of an otherwise empty module."""
    twin = copy.deepcopy(model.get_submodule(path))
    for name in reversed(path.split(".") if path else []):
        shell = nn.Module()
        shell._modules[name] = twin
        twin = shell
    return twin
