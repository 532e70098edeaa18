"""Laws of a map that need no plan: where a consumer's output goes, and what is left when a block goes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import AT_OUTPUT, ChannelGroup
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.attributes import read
from optimum_grail.models.depth import drop_blocks_
from optimum_grail.models.layout import Layout
from optimum_grail.models.matrix import rows
from optimum_grail.models.stock import config_of
from optimum_grail.models.trial import FAILURES, failing_module, one_per_declaration


def check_streams(model: nn.Module, layout: Layout, inputs: Mapping[str, Tensor]) -> None:
    """What is added to a consumer's output joins the residual sum that the map names, times the factor it names.

    Tried on the first group of every declaration whose stream is a module's input or output, or the block's, and whose
    consumer has no BatchNorm after it.

    Raises:
        ArchitectureError: the stream moves by something else.
    """
    for group in one_per_declaration(layout):
        if isinstance(group.stream, str) and group.norm is None:
            _check_stream(model, group, inputs)


def _check_stream(model: nn.Module, group: ChannelGroup, inputs: Mapping[str, Tensor]) -> None:
    consumer = model.get_submodule(group.consumer.module)
    before = _stream(model, group, inputs, None)
    if before is None:
        raise ArchitectureError(
            f"The stream {group.stream!r} of {group.name!r} is never seen while the example runs. Correct stream."
        )
    width = rows(consumer, group.consumer.module)
    if before.shape[-1] != width:
        raise ArchitectureError(
            f"The stream {group.stream!r} of {group.name!r} has {before.shape[-1]} features; {group.consumer.module} "
            f"puts out {width}. Name in stream the residual sum right after the consumer."
        )
    step = torch.linspace(-1, 1, before.shape[-1], dtype=before.dtype) * before.abs().mean()
    after = _stream(model, group, inputs, (consumer, step))
    factor = 1.0 if group.factor is None else read(model, group.factor)
    expected = step * (factor.flatten() if isinstance(factor, Tensor) else factor)
    if after is None or not torch.allclose(after - before, expected.expand_as(before), rtol=1e-2, atol=1e-4):
        raise ArchitectureError(
            f"What is added to the output of {group.consumer.module} does not arrive as it is in the stream "
            f"{group.stream!r} of {group.name!r}. Name in stream the residual sum right after the consumer, and in "
            "factor what its output is multiplied by on the way; behind a norm let stream be None."
        )


def _stream(
    model: nn.Module, group: ChannelGroup, inputs: Mapping[str, Tensor], step: tuple[nn.Module, Tensor] | None
) -> Tensor | None:
    """The stream of ``group`` with its features last, as the model runs; ``step``: a module, and what to add to its
    output."""
    seen: list[Tensor] = []
    name, _, side = str(group.stream).partition(":")
    at_output = name == AT_OUTPUT or side == "output"
    module = model.get_submodule(group.block if name == AT_OUTPUT else f"{group.block}.{name}".lstrip("."))

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Keep what enters."""
        seen.append((args[0] if args else next(iter(kwargs.values()))).clone())

    def leave(_: nn.Module, args: object, output: Any) -> None:
        """Keep what is put out."""
        seen.append((output[0] if isinstance(output, tuple) else output).clone())

    with ExitStack() as hooks:
        if step is not None:
            moved, added = step
            hooks.callback(moved.register_forward_hook(lambda _, args, output: output + added).remove)
        if at_output:
            hooks.callback(module.register_forward_hook(leave).remove)
        else:
            hooks.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        model(**inputs)
    if not seen:
        return None
    return seen[0].movedim(1, -1) if seen[0].dim() == 4 else seen[0]


def check_depth(
    model: nn.Module,
    layout: Layout,
    outputs: Callable[[nn.Module], Sequence[Tensor]],
    again: Callable[[nn.Module, Layout], nn.Module],
) -> None:
    """Without its first block, the model survives saving and loading to the last bit, where the map has a depth field.

    Args:
        model: the example.
        layout: its layout.
        outputs: what a model puts out on the example's inputs.
        again: a model, and its layout, saved and loaded.

    Raises:
        ArchitectureError: it does not.
    """
    for stack in layout.stacks:
        able = stack.spec.depth_field is not None and config_of(model, stack.owner) is not None
        if not able or len(stack.blocks) < 2:
            continue
        small = copy.deepcopy(model)
        try:
            shorter = drop_blocks_(small, layout, stack.blocks[:1])
            expected = outputs(small)
            found = outputs(again(small, shorter))
        except FAILURES as error:
            raise ArchitectureError(
                f"Without block {stack.blocks[0]!r} the model cannot be saved, loaded and run, in the code of "
                f"{failing_module(error, small) or type(small).__name__}: {str(error)[:300]}. Name in depth_lists the "
                "config lists with one entry per block, or leave depth_field out of the map."
            ) from error
        if not all(map(torch.equal, found, expected)):
            raise ArchitectureError(
                f"Without block {stack.blocks[0]!r} the model puts out something else when it is saved and loaded "
                "again. Name in depth_lists the config lists with one entry per block, or leave depth_field out."
            )
