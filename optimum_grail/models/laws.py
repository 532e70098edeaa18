"""Laws of a map that need no plan: where a consumer's output goes, and what is left when a block goes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from optimum_grail.core.groups import AT_OUTPUT, ChannelGroup
from optimum_grail.core.head_size import HeadReduction, dimensions_of
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.reduction import Reduction
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.attributes import read
from optimum_grail.models.depth import drop_blocks_
from optimum_grail.models.layout import Layout
from optimum_grail.models.matrix import rows
from optimum_grail.models.rotary import settle_head_size_
from optimum_grail.models.stock import config_of
from optimum_grail.models.surgery import apply_
from optimum_grail.models.trial import FAILURES, cannot_run, failing_module, one_per_declaration


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


class _NeverChosen(TorchFunctionMode):
    """Inside, a router scores some experts so low that no token is sent to them."""

    def __init__(self, router: nn.Module, experts: Tensor) -> None:
        super().__init__()
        self.weight, self.experts = router.get_parameter("weight").data_ptr(), experts

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run ``func``; lower what the router's product gives."""
        found = func(*args, **(kwargs or {}))
        if func is nn.functional.linear and args[1].data_ptr() == self.weight:
            return found.index_fill(-1, self.experts, -1e9)
        return found


def check_routing(
    model: nn.Module,
    narrow: nn.Module,
    group: ChannelGroup,
    keep: Tensor,
    outputs: Callable[[nn.Module], Sequence[Tensor]],
) -> None:
    """A model without some experts is the same as one whose router never chooses them.

    Args:
        model: the example.
        narrow: the same without all experts of ``group`` but those to ``keep`` (int64).
        group: experts of one block.
        keep: which stay in ``narrow``.
        outputs: what a model puts out on the example's inputs.

    Raises:
        ArchitectureError: it is not, or the narrow model does not run.
    """
    try:
        found = outputs(narrow)
    except FAILURES as error:
        raise cannot_run(group, len(keep), error, narrow) from error
    dropped = torch.tensor([unit for unit in range(group.units) if unit not in keep.tolist()])
    masked = copy.deepcopy(model)
    router = masked.get_submodule(group.producers[0].module)
    for tensor in (*router.parameters(recurse=False), *router.buffers(recurse=False)):
        if tensor.dim() == 1:  # what corrects the choice
            tensor[dropped] = -1e9
    for table in group.tables:
        read(masked, table.path).index_fill_(table.axis, dropped, -1e9)
    with _NeverChosen(router, dropped):
        expected = outputs(masked)
    dense = outputs(model)
    if all(map(close, expected, dense)):
        raise ArchitectureError(
            f"No output of the example changes when the router of {group.name!r} never chooses some experts. Name the "
            "router, and give the example more tokens."
        )
    if not all(map(close, found, expected)):
        raise ArchitectureError(
            f"Without some experts of {group.name!r} the model is not the same as with a router that never chooses "
            "them. Name the module that scores experts in router, what holds them in bank, and in attributes all "
            "numbers that tell how many there are."
        )


def close(one: Tensor, other: Tensor) -> bool:
    """Whether two outputs are the same but for rounding."""
    scale = 1 + float(other.abs().max())
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5 * scale)


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


def check_inside(
    model: nn.Module,
    layout: Layout,
    outputs: Callable[[nn.Module], Sequence[Tensor]],
    again: Callable[[nn.Module, Layout], nn.Module],
) -> None:
    """Where the map says that heads can shrink inside, the fastest rotation pair and as many dimensions of the values,
    all of them set to zero, go without a trace, and the smaller heads survive saving and loading to the last bit.

    Args: as :func:`check_depth`.

    Raises:
        ArchitectureError: they do not.
    """
    groups = [group for group in layout.groups if group.inside is not None]
    pairs = {group.owner: torch.arange(1, group.inside.size // 2) for group in groups if group.inside is not None}
    if not pairs or min(map(len, pairs.values())) == 0 or any(config_of(model, owner) is None for owner in pairs):
        return
    small = copy.deepcopy(model)
    try:
        items = [_silenced_(small, group, pairs[group.owner]) for group in groups]
        expected = outputs(small)
        apply_(small, Plan(items))
        left = settle_head_size_(small, layout, pairs)
        found = outputs(small)
        loaded = outputs(again(small, left))
    except FAILURES as error:
        raise ArchitectureError(
            f"With smaller heads the model cannot be run, saved and loaded, in the code of "
            f"{failing_module(error, small) or type(small).__name__}: {str(error)[:300]}. Leave rotary out of the map."
        ) from error
    near = all(
        torch.allclose(one, two, rtol=1e-4, atol=1e-4 * (1 + float(two.abs().max())))
        for one, two in zip(found, expected, strict=True)
    )
    if not near or not all(map(torch.equal, loaded, found)):
        raise ArchitectureError(
            f"The heads of {groups[0].name!r} cannot lose a rotation pair that holds nothing without a trace, so "
            "something else looks at their dimensions, or turns other ones together. Leave rotary out of the map."
        )


def _silenced_(model: nn.Module, group: ChannelGroup, pairs: Tensor) -> GroupPlan:
    """Set what is not of ``pairs`` to zero in the heads of ``group``; returns the plan that takes it out."""
    size = 0 if group.inside is None else group.inside.size
    kept = dimensions_of(pairs, size)
    pick = torch.eye(size, dtype=torch.float64)[kept]
    shared = 1
    for path in () if group.inside is None else (group.inside.query, group.inside.key, group.inside.value):
        for parameter in model.get_submodule(path).parameters():
            heads = parameter.data.unflatten(0, (-1, size))
            shared = len(heads)
            parameter.data = (heads * pick.sum(0).to(heads).view(-1, *[1] * (heads.dim() - 2))).flatten(0, 1)
    heads_out = group.consumer.span * group.units // max(size, 1)
    inside = HeadReduction(pairs, pick.expand(shared, -1, -1), pick.T.expand(heads_out, -1, -1))
    return GroupPlan(group, Reduction.keep_all(group.units), None, inside=inside)
