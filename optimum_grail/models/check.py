"""Check a map of a model family: the laws that every map has to keep, tried on its tiny example model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor, nn

from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.core.groups import ChannelGroup, Port
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.expert_laws import check_channels, every_expert
from optimum_grail.models.laws import check_depth, check_inside, check_routing, check_streams
from optimum_grail.models.layout import Layout
from optimum_grail.models.made_up import inputs_for
from optimum_grail.models.matrix import features_per_unit, to_matrix
from optimum_grail.models.resize import narrow_all_
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import config_of, expressible, write_config_
from optimum_grail.models.surgery import apply_, narrow_
from optimum_grail.models.table import entries
from optimum_grail.models.trial import FAILURES, cannot_run, failing_module, one_per_declaration


@dataclass(frozen=True)
class MapReport:
    """What :func:`check_map` found out about a map that keeps all laws.

    Args:
        groups: number of groups in the example, by the name of their declaration.
        standalone: declarations whose width the stock config can say where all layers have the same.
        inexact: declarations with ``mixes=True``, on which the mask law was not tried (of experts: another was).
    """

    groups: Mapping[str, int]
    standalone: tuple[str, ...]
    inexact: tuple[str, ...]


def check_map(spec: ArchitectureSpec, inputs: Mapping[str, Tensor] | None = None) -> MapReport:
    """Try every law of a map on ``spec.example``.

    The laws: every block of the example resolves; the parameters said to go are those that go; a plan that keeps
    everything changes no bit; dropped units set to zero (experts: never chosen) give the same output as the narrowed
    model; a consumer's output joins the stream; free widths, fewer blocks, and heads that have lost dimensions survive
    saving and loading; widths that the map calls expressible make a model that the stock class builds.

    Args:
        spec: the map; it need not be registered.
        inputs: what the example is called with, batch first; by default random tokens (and the mask, a part of it
            padding) or images, as its config describes them.

    Returns:
        what the map covers.

    Raises:
        ArchitectureError: the first law that does not hold, with the group and the module, and what to change.
    """
    if spec.example is None:
        raise ArchitectureError(
            "The map has no example to try it on. Set example to a function that builds a tiny model."
        )
    model = spec.example().eval()
    with ARCHITECTURES.serving(spec), torch.no_grad():
        layout = resolve(model, spec, experts=True)
        given = dict(inputs) if inputs is not None else inputs_for(model, spec)
        _check_blocks(layout)
        _check_costs(model, layout)
        _check_keeping_all(model, layout)
        inexact = [group.name for group in one_per_declaration(layout) if layout.specs[group.name].mixes]
        for group in one_per_declaration(layout):
            if group.kind == "experts":
                keep = torch.arange(group.units - group.chosen, group.units)
                narrow = copy.deepcopy(model)
                apply_(narrow, _plan(narrow, [group], {group.name: keep}))
                check_routing(model, narrow, group, keep, partial(outputs_of, inputs=given))
            elif group.kind == "expert-channels":
                check_channels(model, group, partial(outputs_of, inputs=given))
            else:
                _check_mask(model, group, given, exact=group.name not in inexact)
        check_streams(model, layout, given)
        _check_loading(model, layout, given)
        for law in (check_depth, check_inside):
            law(model, layout, partial(outputs_of, inputs=given), partial(_reloaded, dense=model, widths={}))
        standalone = _check_stock(model, layout, given)
    names = [layout.specs[group.name].name for group in layout.groups]
    return MapReport(
        {name: names.count(name) for name in names},
        tuple(dict.fromkeys(layout.specs[name].name for name in standalone)),
        tuple(dict.fromkeys(layout.specs[name].name for name in inexact)),
    )


def _check_blocks(layout: Layout) -> None:
    for stack in layout.stacks:
        for path in stack.blocks:
            if stack.spec.chain == "pattern" and len(stack.spec.blocks) == 1 and not layout.of_block(path):
                raise ArchitectureError(f"No group of the map holds in block {path}. Correct block_class or within.")
    small = next((group for group in layout.groups if group.units < 2), None)
    if small is not None:
        raise ArchitectureError(f"{small.name!r} has {small.units} unit in the example. Give it two or more.")


def _check_costs(model: nn.Module, layout: Layout) -> None:
    for group in layout.groups:
        smaller = copy.deepcopy(model)
        narrow_(smaller, group, group.units - 1)
        gone = layout.total_parameters - sum(parameter.numel() for parameter in smaller.parameters())
        told = layout.removed_parameters({group.name: group.units - 1})
        if not gone == told == group.cost:
            raise ArchitectureError(
                f"A unit of {group.name!r} takes {gone} parameters along; {group.cost} were expected."
            )


def _plan(model: nn.Module, groups: Sequence[ChannelGroup], keep: Mapping[str, Tensor]) -> Plan:
    """Plain pruning of ``groups`` to the units ``keep``."""
    items = []
    for group in groups:
        module = model.get_submodule(group.consumer.module)
        if group.kind == "expert-channels":
            reduction, span = every_expert(model, group, keep[group.name]), 1
        else:
            reduction, span = Reduction.prune(group.units, keep[group.name]), features_per_unit(group, module)
        weight = reduction.lift_columns(to_matrix(module), span)
        items.append(GroupPlan(group, reduction, Readout(weight)))
    return Plan(items)


def _check_keeping_all(model: nn.Module, layout: Layout) -> None:
    same = copy.deepcopy(model)
    apply_(same, _plan(same, layout.groups, {group.name: torch.arange(group.units) for group in layout.groups}))
    after = same.state_dict()
    for name, tensor in model.state_dict().items():
        if not torch.equal(tensor, after[name]):
            raise ArchitectureError(f"{name} changes although everything is kept: the strips of its groups overlap.")


def outputs_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """All floating-point tensors that the model puts out."""
    return [tensor for tensor in _tensors(model(**inputs)) if tensor.is_floating_point()]


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _check_mask(model: nn.Module, group: ChannelGroup, inputs: Mapping[str, Tensor], exact: bool) -> None:
    """Every second unit of ``group`` goes; with ``exact`` that is the same as setting it to zero."""
    keep = torch.arange(1, group.units, 2)
    narrow = copy.deepcopy(model)
    apply_(narrow, _plan(narrow, [group], {group.name: keep}))
    try:
        found = outputs_of(narrow, inputs)
    except FAILURES as error:
        raise cannot_run(group, len(keep), error, narrow) from error
    dense = outputs_of(model, inputs)
    with masked(model, {group.consumer: torch.arange(0, group.units, 2)}):
        expected = outputs_of(model, inputs)
    if not any(map(_differ, expected, dense)):
        raise ArchitectureError(
            f"Setting units of {group.name!r} to zero changes no output of the example. Name the consumer that reads "
            "them, and give the example weights and factors that are not zero."
        )
    if exact and any(map(_differ, found, expected)):
        raise ArchitectureError(
            f"Dropping units of {group.name!r} is not the same as setting them to zero where they enter "
            f"{group.consumer.module}. Look for a producer that is missing or whose parts are laid out otherwise "
            "(part, of, interleaved of a Strip), and for a module in between that mixes units."
        )


def _differ(one: Tensor, other: Tensor) -> bool:
    return one.shape != other.shape or not torch.allclose(
        one, other, rtol=1e-4, atol=1e-5 * (1 + float(other.abs().max()))
    )


@contextmanager
def masked(model: nn.Module, dropped: Mapping[Port, Tensor]) -> Iterator[None]:
    """The model with units set to zero where they enter their consumer: for every consumer's port, which (int64)."""
    with ExitStack() as stack:
        for port, units in dropped.items():
            module = model.get_submodule(port.module)
            axis = 1 if isinstance(module, nn.Conv2d) else -1
            stack.callback(module.register_forward_pre_hook(_zeroing(axis, port.elements(units))).remove)
        yield


def _zeroing(axis: int, elements: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    return lambda _, args: (args[0].index_fill(axis, elements, 0.0), *args[1:])


def _check_loading(model: nn.Module, layout: Layout, inputs: Mapping[str, Tensor]) -> None:
    """Widths that differ between layers, where they may, survive saving and loading to the last bit."""
    small = copy.deepcopy(model)
    keep = {group.name: torch.arange(_free(model, layout, group, place)) for place, group in enumerate(layout.groups)}
    for inside in (False, True):  # channels of the experts that are left then
        some = [group for group in layout.groups if (group.kind == "expert-channels") is inside]
        apply_(small, _plan(small, some, keep))
    widths = {name: len(kept) for name, kept in keep.items()}
    try:
        expected = outputs_of(small, inputs)
        again = _reloaded(small, layout, model, widths)
        found = outputs_of(again, inputs)
    except FAILURES as error:
        raise ArchitectureError(
            f"With the widths {widths} the model cannot be saved, loaded and run, in the code of "
            f"{failing_module(error, small) or type(small).__name__}: {str(error)[:300]}. Correct field, attributes or "
            "pinned of its group."
        ) from error
    if not all(map(torch.equal, found, expected)):
        raise ArchitectureError(
            f"The model with the widths {widths} puts out something else when it is saved and loaded again. Name "
            "the numbers that follow the width in attributes, and in pinned the config fields that the class derives."
        )


def _free(model: nn.Module, layout: Layout, group: ChannelGroup, place: int) -> int:
    """A width for the group at this index, different from its neighbours' unless all layers need the same."""
    if group.uniform:
        return _half(model, layout, group) or group.units
    return max(1, group.units - 1 - place % (group.units - 1))


def _reloaded(small: nn.Module, layout: Layout, dense: nn.Module, widths: Mapping[str, int]) -> nn.Module:
    if config_of(small, "") is None:  # a plain module: narrowed as its table says, then filled
        again = copy.deepcopy(dense)
        narrow_all_(again, layout, widths)
        again.load_state_dict(small.state_dict())
        return again
    write_config_(small, layout, {})
    kind: Any = type(small)
    with TemporaryDirectory() as folder:
        cast(Any, small).save_pretrained(folder)
        mapped = kind.from_pretrained(folder).eval()
        return cast(nn.Module, copy.deepcopy(mapped))  # as torch aligns it: files do not, and kernels round otherwise


def _half(model: nn.Module, layout: Layout, group: ChannelGroup) -> int:
    """The largest width up to half of the units that the stock config can express; 0 if there is none."""
    return next((n for n in range(group.units // 2, 0, -1) if expressible(model, layout, group, n)), 0)


def _check_stock(model: nn.Module, layout: Layout, inputs: Mapping[str, Tensor]) -> list[str]:
    """Groups whose narrower width the stock config can say, one per declaration, each tried with the stock class."""
    told = [
        group for group in one_per_declaration(layout) if config_of(model, group.owner) and _half(model, layout, group)
    ]
    for group in told:
        spec, units = layout.specs[group.name], _half(model, layout, group)
        small: Any = copy.deepcopy(model)
        for other in layout.groups:
            alike = layout.specs[other.name] is spec or (group.uniform and group.uniform == other.uniform)
            if alike and expressible(model, layout, other, units):
                narrow_(small, other, units)
        updates = write_config_(small, layout, {})
        if refused := next((update.doubt for update in updates if update.doubt), ""):
            raise ArchitectureError(
                f"The map calls {units} units of {group.name!r} expressible, but with {entries(group, units)} in its "
                f"config the stock class is another: {refused}. Correct field, pinned or accepts."
            )
        try:
            stock = type(small)(copy.deepcopy(small.config)).eval()
            stock.load_state_dict(small.state_dict())
            same = all(map(torch.equal, outputs_of(stock, inputs), outputs_of(small, inputs)))
        except FAILURES as error:
            raise ArchitectureError(
                f"The map calls {units} units of {group.name!r} expressible, but with {entries(group, units)} in its "
                f"config {type(small).__name__} fails: {str(error)[:300]}. Correct field, pinned or accepts."
            ) from error
        if not same:
            raise ArchitectureError(
                f"With {entries(group, units)} in its config, {type(small).__name__} puts out something else than the "
                f"narrowed model. Name what it derives from them in pinned, or let accepts refuse them."
            )
    return [group.name for group in told]
