"""Dropping whole blocks: the shorter model is an ordinary one, whose stock config says the number of layers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from optimum_grail.core.groups import ChannelGroup, Port, RotaryHeads
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.layout import Layout, Stack
from optimum_grail.models.stock import config_of


def drop_blocks_(model: nn.Module, layout: Layout, dropped: Sequence[str]) -> Layout:
    """Take the blocks at the paths ``dropped`` out of the model and its config.

    The blocks that stay move up: their paths, their layers in the table and the ``layer_idx`` of their modules change.

    Args:
        model: the model, its blocks in ``nn.ModuleList``.
        layout: its layout before compression.
        dropped: paths of blocks of ``layout``.

    Returns:
        ``layout`` without those blocks, at the new paths; the sizes are still those before compression.

    Raises:
        ArchitectureError: a family whose config cannot say the number of layers, all blocks of a stack, or blocks that
            are in no list. Nothing has changed then.
    """
    if not dropped:
        return layout
    for stack in layout.stacks:
        _check(model, stack, dropped)
    moves: dict[str, str] = {}
    stacks = []
    for stack in layout.stacks:
        kept = [path for path in stack.blocks if path not in dropped]
        moves |= dict(zip(kept, stack.blocks, strict=False))
        stacks.append(replace(stack, blocks=stack.blocks[: len(kept)], layers=stack.layers[: len(kept)]))
        if len(kept) < len(stack.blocks):
            _shorten_(model, stack, dropped)
            _number_(model.get_submodule(_home(stack)))
    layers = {path: layer for stack in stacks for path, layer in zip(stack.blocks, stack.layers, strict=True)}
    groups = [(group, _moved(group, moves, layers)) for group in layout.groups if group.block in moves]
    old = {port.module: _swap(port.module, group.block, moves) for group, _ in groups for port in _ports(group)}
    return replace(
        layout,
        stacks=tuple(stacks),
        groups=tuple(new for _, new in groups),
        specs={new.name: layout.specs[group.name] for group, new in groups},
        weights={old[path]: size for path, size in layout.weights.items() if path in old},
    )


@contextmanager
def without(model: nn.Module, layout: Layout, dropped: Collection[str]) -> Iterator[None]:
    """The model, and what its configs say of its depth, without some blocks; put back afterwards.

    The blocks keep their ``layer_idx``, which only caches read.

    Args:
        model: the model, these blocks in ``nn.ModuleList``.
        layout: its layout.
        dropped: paths of blocks of ``layout``.
    """
    with ExitStack() as undo:
        for stack in layout.stacks:
            if any(path in dropped for path in stack.blocks):
                home = model.get_submodule(_home(stack))
                undo.callback(setattr, home, "_modules", dict(home._modules))
                config = config_of(model, stack.owner)
                if config is not None:
                    undo.callback(vars(config).update, dict(vars(config)))
                _shorten_(model, stack, dropped)
        yield


def kept_runs(blocks: Sequence[str], dropped: Sequence[str]) -> list[tuple[str | None, list[str]]]:
    """Every block that stays, with the dropped ones right after it; those before the first come with ``None``."""
    runs: list[tuple[str | None, list[str]]] = []
    for path in blocks:
        if path not in dropped:
            runs.append((path, []))
        elif runs:
            runs[-1][1].append(path)
        else:
            runs.append((None, [path]))
    return runs


def _home(stack: Stack) -> str:
    """Path of the ``ModuleList`` that holds the blocks."""
    return stack.blocks[0].rpartition(".")[0]


def _check(model: nn.Module, stack: Stack, dropped: Sequence[str]) -> None:
    gone = [path for path in stack.blocks if path in dropped]
    if not gone:
        return
    if len(gone) == len(stack.blocks):
        raise ArchitectureError(f"All blocks of {stack.name!r} would go. Keep at least one.")
    if stack.spec.depth_field is None or config_of(model, stack.owner) is None:
        raise ArchitectureError(
            f"The config of {stack.name!r} cannot say a number of layers, so none can be dropped. Leave depth off."
        )
    if any(not isinstance(model.get_submodule(path.rpartition(".")[0]), nn.ModuleList) for path in gone):
        raise ArchitectureError(f"The blocks of {stack.name!r} are in no ModuleList, so none can be dropped.")


def _shorten_(model: nn.Module, stack: Stack, dropped: Collection[str]) -> None:
    gone = [index for index, path in enumerate(stack.blocks) if path in dropped]
    parent: Any = model.get_submodule(_home(stack))
    for index in reversed(gone):
        del parent[index]
    config = config_of(model, stack.owner)
    if config is None or stack.spec.depth_field is None:
        return
    lists = {name: getattr(config, name, None) for name in stack.spec.depth_lists}
    setattr(config, stack.spec.depth_field, len(parent))
    for name, entries in lists.items():
        if isinstance(entries, list) and len(entries) == len(stack.blocks):
            setattr(config, name, [entry for index, entry in enumerate(entries) if index not in gone])


def _number_(blocks: Any) -> None:
    """Tell the modules of every block which layer they are in now."""
    for index, block in enumerate(blocks):
        for module in block.modules():
            if isinstance(vars(module).get("layer_idx"), int):
                module.layer_idx = index


def _ports(group: ChannelGroup) -> tuple[Port, ...]:
    return (*group.producers, group.consumer)


def _swap(path: str, block: str, moves: Mapping[str, str]) -> str:
    return moves[block] + path.removeprefix(block)


def _turned(inside: RotaryHeads, block: str, moves: Mapping[str, str]) -> RotaryHeads:
    """The same heads at the place to which their block has moved."""
    return replace(
        inside,
        query=_swap(inside.query, block, moves),
        key=_swap(inside.key, block, moves),
        value=_swap(inside.value, block, moves),
        size_at=_swap(inside.size_at, block, moves),
        scaling_at=_swap(inside.scaling_at, block, moves),
    )


def _moved(group: ChannelGroup, moves: Mapping[str, str], layers: Mapping[str, str]) -> ChannelGroup:
    """The group with the paths of the place to which its block has moved."""
    block = group.block
    return replace(
        group,
        name=_swap(group.name, block, moves),
        producers=tuple(replace(port, module=_swap(port.module, block, moves)) for port in group.producers),
        consumer=replace(group.consumer, module=_swap(group.consumer.module, block, moves)),
        block=moves[block],
        layer=layers[moves[block]],
        attention=None if group.attention is None else _swap(group.attention, block, moves),
        norm=None if group.norm is None else _swap(group.norm, block, moves),
        factor=None if group.factor is None else _swap(group.factor, block, moves),
        attributes=tuple((_swap(path, block, moves), count) for path, count in group.attributes),
        tables=tuple(replace(table, path=_swap(table.path, block, moves)) for table in group.tables),
        inside=None if group.inside is None else _turned(group.inside, block, moves),
    )
