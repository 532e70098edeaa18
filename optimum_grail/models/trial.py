"""Before any long work: whether the code of a model's blocks runs at other widths than those it was built with."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from posixpath import commonpath
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.layout import Layout, Stack
from optimum_grail.models.residence import forget_copies, resident
from optimum_grail.models.surgery import narrow_

FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError, AssertionError)
"""What a model's code raises when a width is not the one it expects."""


def failing_module(error: BaseException, model: nn.Module) -> str:
    """Path of the innermost module of ``model`` in whose code ``error`` arose; ``""`` for the model itself."""
    homes = {id(module): path for path, module in model.named_modules()}
    callers = (id(frame.f_locals.get("self")) for frame, _ in traceback.walk_tb(error.__traceback__))
    return next(iter([homes[caller] for caller in callers if caller in homes][::-1]), "")


def cannot_run(group: ChannelGroup, kept: int, error: BaseException, model: nn.Module) -> ArchitectureError:
    """The refusal of ``group`` because ``model`` fails with ``kept`` of its units."""
    where = failing_module(error, model) or type(model).__name__
    return ArchitectureError(
        f"With {kept} of {group.units} units of {group.name!r} the code of {where} fails: {str(error)[:200]}. If that "
        "module holds something per unit, name it in channelwise of the group; if it reads a number that follows the "
        "width, in attributes; otherwise leave the group out of the map."
    )


def one_per_declaration(layout: Layout) -> list[ChannelGroup]:
    """The first group of every declaration."""
    return list({id(layout.specs[group.name]): group for group in reversed(layout.groups)}.values())[::-1]


@dataclass
class _Seen:
    """What blocks were called with and put out on one sample, by path."""

    args: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    kwargs: dict[str, dict[str, Any]] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)


class _Enough(Exception):
    """Ends a forward pass once every block wanted has been called. Private: real errors are never swallowed."""


@torch.no_grad()
def try_widths(model: nn.Module, layout: Layout, inputs: Mapping[str, Tensor]) -> None:
    """Run one copied block for every declaration of the maps, narrower by one step, on what it is called with.

    Args:
        model: in eval mode; unchanged.
        layout: its stacks and groups.
        inputs: of one sample, on the model's device.

    Raises:
        ArchitectureError: the code of a module fails at another width, or blocks hand each other more than a hidden
            state; the message names them.
    """
    groups = [group for group in one_per_declaration(layout) if group.units >= max(group.fewest, 1) + group.step]
    starts = {path for stack in layout.stacks for path in stack.blocks[:2]}
    seen = _watched(model, starts | {group.block for group in groups}, inputs)
    for stack in layout.stacks:
        _check_handed_on(stack, seen, layout)
    for group in groups:
        if group.block not in seen.args:  # not reached by this sample: found out where streams are recorded
            continue
        with resident(model, group.block):
            shell = _alone(model, group.block)
        narrow_(shell, group, group.units - group.step)
        try:
            shell.get_submodule(group.block)(*seen.args[group.block], **seen.kwargs[group.block])
        except FAILURES as error:
            raise cannot_run(group, group.units - group.step, error, shell) from error
        del shell
        forget_copies(model)


def _watched(model: nn.Module, paths: set[str], inputs: Mapping[str, Tensor]) -> _Seen:
    """The blocks at ``paths`` in a forward pass that ends when the last of them is called."""
    seen = _Seen()

    def enter(path: str) -> Callable[..., None]:
        """A hook that notes the call of the block at ``path``."""

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            """Keep the hidden state as a clone: residual sums may be made in place."""
            seen.args[path] = tuple(map(_clone, args[:1])) + args[1:]
            seen.kwargs[path] = {
                name: _clone(value) if name == "hidden_states" else value for name, value in kwargs.items()
            }
            if paths <= seen.args.keys():
                raise _Enough

        return hook

    def leave(path: str) -> Callable[..., None]:
        """A hook that notes what the block at ``path`` puts out."""

        def hook(_: nn.Module, args: tuple[Any, ...], output: object) -> None:
            """Keep it as it is."""
            seen.outputs[path] = output

        return hook

    with ExitStack() as hooks, suppress(_Enough):
        for path in paths:
            block = model.get_submodule(path)
            hooks.callback(block.register_forward_pre_hook(enter(path), with_kwargs=True).remove)
            hooks.callback(block.register_forward_hook(leave(path)).remove)
        model(**inputs)
    return seen


def _check_handed_on(stack: Stack, seen: _Seen, layout: Layout) -> None:
    """Blocks run one by one, each on the hidden state of the one before it: nothing else may come from there."""
    first, second = (*stack.blocks[:2], "")[:2]
    output = seen.outputs.get(first)
    more = [item for item in output[1:] if isinstance(item, Tensor)] if isinstance(output, tuple) else []
    given = [*seen.args.get(second, ()), *seen.kwargs.get(second, {}).values()]
    if not any(value is item for value in given for item in more):
        return
    group = layout.of_block(first)[-1]
    within = commonpath([port.module.replace(".", "/") for port in (*group.producers, group.consumer)])
    raise ArchitectureError(
        f"Block {first!r} hands {second!r} more than a hidden state, so the blocks of {stack.name!r} cannot run one by "
        f"one. Name as blocks the modules in them that only take and return a tensor, for {group.name!r} those like "
        f"{within.replace('/', '.')!r}, and set chain='container' in the map."
    )


def _clone(value: object) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _alone(model: nn.Module, path: str) -> nn.Module:
    """A copy of the module at ``path``, at that path of an otherwise empty module."""
    twin = copy.deepcopy(model.get_submodule(path))
    for name in reversed(path.split(".") if path else []):
        shell = nn.Module()
        shell._modules[name] = twin
        twin = shell
    return twin
