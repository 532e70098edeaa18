"""Find the places of a model where widths can shrink, and check that the map fits the modules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from torch import nn

from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.core.groups import ChannelGroup, Port
from optimum_grail.core.spec import ArchitectureSpec, ExpertChannels, Experts, GroupSpec, SharedChannels
from optimum_grail.errors import ArchitectureError, BlocksMissingError, UnknownNameError
from optimum_grail.models.attributes import meets, read
from optimum_grail.models.declared import group_of
from optimum_grail.models.layout import Layout, Stack, Weights
from optimum_grail.models.matrix import weights_of
from optimum_grail.models.residence import parameters_of


def resolve(model: nn.Module, spec: ArchitectureSpec | None = None, experts: bool = False) -> Layout:
    """Apply the architecture maps to ``model``; works on the meta device too.

    Args:
        model: a transformers model, or any module if ``spec`` describes it.
        spec: the map to use; by default the registered maps of the model's (sub-)configs.
        experts: whether the experts of mixtures, and the channels inside them, are among the groups. What looks at
            every group as it comes, such as the survey, would have to hold the features of all experts at once.

    Returns:
        the layout; every sub-model with blocks of its own is one stack.

    Raises:
        UnknownNameError: no map serves the model's type.
        ArchitectureError: blocks or modules of the map are absent, widths of producers and consumer differ, a module
            is of the wrong kind, or modules that shrink share weights with others.
    """
    stacks = _stacks(model, spec)
    groups: list[ChannelGroup] = []
    specs: dict[str, GroupSpec] = {}
    for stack in stacks:
        for block, layer in zip(stack.blocks, stack.layers, strict=True):
            for declared in _declared(model, stack, block):
                if isinstance(declared, Experts | ExpertChannels | SharedChannels) and not experts:
                    continue
                group = group_of(model, stack.owner, block, layer, declared)
                if group.name in specs:
                    raise ArchitectureError(f"The map has two groups called {group.name!r}. Give each its own name.")
                groups.append(group)
                specs[group.name] = declared
    touched = {port.module: weights_of(model, port.module) for group in groups for port in _ports(group)}
    _check_overlaps(groups)
    _check_sharing(model, touched)
    inside = {id(p): p for stack in stacks for block in stack.blocks for p in _parameters(model, block)}
    whole = parameters_of(model)
    return Layout(
        stacks=tuple(stacks),
        groups=tuple(groups),
        specs=specs,
        weights=touched,
        block_parameters=sum(parameter.numel() for parameter in inside.values()),
        total_parameters=sum(parameter.numel() for parameter in whole),
        sizes={path: sum(p.numel() for p in _parameters(model, path)) for stack in stacks for path in stack.blocks},
        block_bytes=sum(parameter.nbytes for parameter in inside.values()),
        total_bytes=sum(parameter.nbytes for parameter in whole),
    )


def _ports(group: ChannelGroup) -> tuple[Port, ...]:
    return (*group.producers, group.consumer)


def _parameters(model: nn.Module, path: str) -> Iterator[nn.Parameter]:
    return model.get_submodule(path).parameters()


def model_type(module: nn.Module) -> str | None:
    """``config.model_type`` of a transformers (sub-)model, or ``None``."""
    found = getattr(getattr(module, "config", None), "model_type", None)
    return found if isinstance(found, str) else None


def expand(root: nn.Module, pattern: str) -> list[tuple[str, str]]:
    """All ``(path, index levels joined by dots)`` below ``root`` that match ``pattern``; empty if any branch ends."""
    found = [(root, "", "")]
    for part in pattern.split("."):
        grown = []
        for module, path, index in found:
            children = dict(module.named_children())
            names = list(children) if part == "*" else [part]
            if not names or any(name not in children for name in names):
                return []
            for name in names:
                level = f"{index}.{name}".lstrip(".") if part == "*" else index
                grown.append((children[name], f"{path}.{name}".lstrip("."), level))
        found = grown
    return [(path, index) for _, path, index in found]


def _stacks(model: nn.Module, spec: ArchitectureSpec | None) -> list[Stack]:
    families = dict.fromkeys(spec.model_types, spec) if spec else dict(ARCHITECTURES)
    stacks: list[Stack] = []
    unmet: dict[str, ArchitectureSpec] = {}
    met: set[str] = set()
    for path, module in model.named_modules():
        name = model_type(module) or ""
        if name not in families:
            continue
        unmet[name] = families[name]
        if chains := _chains(module, path, families[name]):
            stacks += chains
            met.add(name)
    if spec and not stacks:  # a module without a transformers config is its own owner
        stacks = _chains(model, "", spec)
        unmet = {} if stacks else {model_type(model) or type(model).__name__: spec}
    for name in unmet.keys() - met:
        raise BlocksMissingError(
            f"No part of {type(model).__name__} has the blocks {', '.join(unmet[name].blocks)} that the map of "
            f"{name!r} expects. Load the model with its backbone, or correct the patterns of the map."
        )
    if not stacks:
        _refuse(model)
    return _in_order(stacks)


def _refuse(model: nn.Module) -> None:
    name = model_type(model)
    if name is None:
        raise ArchitectureError(
            f"{type(model).__name__} has no config with a model_type, so no registered map can be looked up. Describe "
            "its blocks with an ArchitectureSpec, or let propose(model, inputs) do it, and pass it as spec=…."
        )
    raise UnknownNameError.among("architecture", name, ARCHITECTURES.names(), ARCHITECTURES.remedy)


def _chains(module: nn.Module, path: str, spec: ArchitectureSpec) -> list[Stack]:
    """The stacks of one (sub-)model, one per uninterrupted chain of blocks; none if no pattern finds anything."""
    matches = [expand(module, pattern) for pattern in spec.blocks]
    masks = dict(spec.masks)
    marks: dict[str, str | None] = {}
    chains: dict[str, list[tuple[str, str]]] = {}
    for pattern, match in zip(spec.blocks, matches, strict=True):
        for below, index in match:
            chain = pattern if spec.chain == "pattern" else below.rpartition(".")[0]
            marks[chain] = masks.get(pattern, spec.mask)
            chains.setdefault(chain, []).append((below, below if len(matches) > 1 else index))
    if len(chains) > 1 and spec.depth_field:
        raise ArchitectureError(
            f"The map of {', '.join(spec.model_types)} has {len(chains)} chains of blocks and one depth_field, "
            f"{spec.depth_field!r}, which cannot say how long each is. Leave depth_field out of the map."
        )
    if not meets(getattr(module, "config", None), spec.depth_when):
        spec = replace(spec, depth_field=None)
    name = path or model_type(module) or type(module).__name__
    stacks: list[Stack] = []
    for chain, pairs in chains.items():
        blocks = tuple(f"{path}.{below}".lstrip(".") for below, _ in pairs)
        own = name if len(chains) == 1 else blocks[0].rpartition(".")[0]
        before = tuple(stack.name for stack in stacks)
        layers = tuple(layer for _, layer in pairs)
        stacks.append(Stack(own, path, spec, blocks, layers, before, marks[chain]))
    return stacks


def _in_order(stacks: list[Stack]) -> list[Stack]:
    """The stacks in an order in which none comes before one that its map names in ``after``, otherwise as they are."""
    earlier = {stack.name: {*stack.after, *_named(stack, stacks)} for stack in stacks}
    try:
        TopologicalSorter(earlier).prepare()
    except CycleError as error:
        raise ArchitectureError(
            f"The maps say of {', '.join(error.args[1][:-1])} that each runs after the other. Correct their after."
        ) from error
    left, ordered = list(stacks), list[Stack]()
    while left:
        done = {stack.name for stack in ordered}
        found = next(stack for stack in left if earlier[stack.name] <= done)
        ordered.append(replace(found, after=tuple(item.name for item in stacks if item.name in earlier[found.name])))
        left.remove(found)
    return ordered


def _named(stack: Stack, stacks: list[Stack]) -> set[str]:
    """Names of the stacks that the map of ``stack`` names in ``after``; those that this model lacks are left out."""
    names = set(stack.spec.after)
    return {
        item.name
        for item in stacks
        if item.owner != stack.owner and {item.owner, item.owner.rpartition(".")[2]} & names
    }


def _declared(model: nn.Module, stack: Stack, path: str) -> list[GroupSpec]:
    """The group declarations that hold in the block at ``path``, by stage."""
    block = model.get_submodule(path)
    classes = {cls.__name__ for cls in type(block).__mro__}
    found = [spec for spec in stack.spec.groups if spec.block_class is None or spec.block_class in classes]
    if not found:
        expected = sorted({str(spec.block_class) for spec in stack.spec.groups})
        raise ArchitectureError(
            f"Block {path} is a {type(block).__name__}; the map knows {', '.join(expected) or 'no group at all'}. Add "
            "groups for this class of block."
        )
    below = path.removeprefix(f"{stack.owner}.") if stack.owner else path
    config = getattr(model.get_submodule(stack.owner), "config", None)
    found = [spec for spec in found if spec.within is None or matches(below, spec.within)]
    found = [spec for spec in found if meets(config, spec.when)]
    found = [spec for spec in found if spec.holds is None or read(block, spec.holds) is not None]
    return sorted(found, key=lambda spec: spec.stage)


def matches(path: str, pattern: str) -> bool:
    """Whether a block at ``path``, relative to the sub-model that owns it, is one of ``pattern``."""
    names, parts = path.split("."), pattern.split(".")
    return len(names) == len(parts) and all(part in ("*", name) for name, part in zip(names, parts, strict=True))


def _check_overlaps(groups: list[ChannelGroup]) -> None:
    """No weight axis may belong to two groups: they could not shrink independently."""
    strips = defaultdict(list)
    for group in groups:
        for port in _ports(group):
            strips[port.module, port.side].append((port.offset, port.offset + group.units * port.span, group.name))
    for (path, side), found in strips.items():
        found.sort()
        for (_, end, first), (start, _, second) in pairwise(found):
            if start < end or first != second:
                raise ArchitectureError(
                    f"Groups {first!r} and {second!r} both own elements of {path} ({side}). Let one group of the map "
                    "own all of them."
                )


def _check_sharing(model: nn.Module, touched: dict[str, Weights]) -> None:
    """A weight that also lives elsewhere cannot shrink in one place only."""
    homes = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        homes[id(parameter)].append(name)
    for path in touched:
        for name, parameter in model.get_submodule(path).named_parameters(recurse=False):
            others = [home for home in homes[id(parameter)] if home != f"{path}.{name}"]
            if others:
                raise ArchitectureError(
                    f"{path}.{name} is shared with {others[0]}, so it cannot shrink alone. Models that share weights "
                    "between blocks are not supported: untie them first."
                )
