"""Repeated blocks: containers whose items are called one after the other, each on what the one before it put out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from optimum_grail.models.resolve import expand, model_type
from optimum_grail.proposals.bench import entering, first_tensor, is_matrix

FEWEST = 2
"""Linear layers and convolutions that a block has at least: one that produces and one that consumes."""


@dataclass
class Call:
    """The first call of a module in one pass of the model.

    Args:
        args: what it was called with; the hidden state among them is a copy.
        kwargs: the same by name.
        entered: the hidden state itself.
        left: the tensor that it put out.
        number: of calls in all.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    entered: Tensor | None
    left: Tensor | None = None
    number: int = 1


@dataclass(frozen=True)
class Chain:
    """Blocks of one (sub-)model.

    Args:
        owner: path of the sub-model whose config describes the blocks, or ``""``.
        pattern: of the blocks, relative to the owner.
        blocks: their paths from the root, in order.
        link: what follows directly, as in :attr:`~optimum_grail.core.spec.ArchitectureSpec.chain`.
    """

    owner: str
    pattern: str
    blocks: tuple[str, ...]
    link: Literal["pattern", "container"] = field(default="pattern")


def watch(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Call]:
    """The first call of every module in one forward pass, by path, in the order of the calls."""
    calls: dict[str, Call] = {}

    def enter(path: str) -> Callable[..., None]:
        """A hook that notes a call of the module at ``path``."""

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            """Copy the hidden state: residual sums may be made in place."""
            if path in calls:
                calls[path].number += 1
                return
            state = entering(args, kwargs)
            copies = {id(state): None if state is None else state.clone()}
            calls[path] = Call(
                tuple(copies.get(id(value), value) for value in args),
                {name: copies.get(id(value), value) for name, value in kwargs.items()},
                state,
            )

        return hook

    def leave(path: str) -> Callable[..., None]:
        """A hook that notes what the module at ``path`` puts out."""

        def hook(_: nn.Module, args: tuple[Any, ...], output: object) -> None:
            """Of the first call."""
            if path in calls and calls[path].left is None:
                calls[path].left = first_tensor(output)

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for path, module in model.named_modules():
            hooks.callback(module.register_forward_pre_hook(enter(path), with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(leave(path)).remove)
        model(**inputs)
    return calls


def find_chains(model: nn.Module, calls: Mapping[str, Call]) -> list[Chain]:
    """The innermost chains of blocks, in the order in which they run.

    Args:
        model: the model.
        calls: what :func:`watch` saw of it.

    Returns:
        one per pattern; paths of lists that differ in numbers only (stages) make one pattern.
    """
    containers = [
        path
        for path, module in model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and _is_chain(module, path, calls)
    ]
    inner = [path for path in containers if not any(other != path and _below(other, path) for other in containers)]
    chains: dict[tuple[str, str], Chain] = {}
    owners = {path: owner_of(model, path) for path in inner}
    for path in inner:
        owner = _common(model, owners[path], owners.values())
        local = path[len(owner) :].lstrip(".")
        pattern = ".".join("*" if part.isdigit() else part for part in f"{local}.0".lstrip(".").split("."))
        key = owner, pattern
        if key not in chains:
            found = [f"{owner}.{below}".lstrip(".") for below, _ in expand(model.get_submodule(owner), pattern)]
            blocks = tuple(block for block in found if block in calls)
            if len(blocks) == len(found) and blocks:
                direct = all(_follow(calls[one], calls[other]) for one, other in pairwise(blocks))
                chains[key] = Chain(owner, pattern, blocks, "pattern" if direct else "container")
    order = list(calls)
    return sorted(chains.values(), key=lambda chain: order.index(chain.blocks[0]))


def _below(path: str, ancestor: str) -> bool:
    return ancestor == "" or path.startswith(f"{ancestor}.")


def _is_chain(module: nn.Module, path: str, calls: Mapping[str, Call]) -> bool:
    """Whether the items are blocks: two or more, called once and in a row, most of them with layers to shrink."""
    items = [f"{path}.{name}".lstrip(".") for name, _ in module.named_children()]
    seen = [calls[item] for item in items if item in calls]
    if len(items) < 2 or len(seen) < len(items) or any(call.number > 1 for call in seen):
        return False
    if not all(_follow(one, other) for one, other in pairwise(seen)):
        return False
    sizes = [sum(map(is_matrix, item.modules())) for item in module.children()]
    return sum(size >= FEWEST for size in sizes) * 2 >= len(sizes)


def _follow(one: Call, other: Call) -> bool:
    """Whether what the first put out is what the second was called with."""
    return one.left is not None and one.left is other.entered


def _common(model: nn.Module, owner: str, owners: Iterable[str]) -> str:
    """``owner``, or where others are of the same model type (an encoder and a decoder) the nearest module of that type
    that holds them all, so that one map can tell them apart."""
    kind = model_type(model.get_submodule(owner))
    same = [other for other in owners if kind is not None and model_type(model.get_submodule(other)) == kind]
    while owner and not all(other == owner or _below(other, owner) for other in same):
        owner = owner_of(model, owner.rpartition(".")[0])
    return owner


def owner_of(model: nn.Module, path: str) -> str:
    """Path of the nearest module above with a config of a model type; the root if there is none."""
    while path and model_type(model.get_submodule(path)) is None:
        path = path.rpartition(".")[0]
    return path


def lots(model: nn.Module, blocks: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Blocks of one class that may share a map: all of them, then those with the same modules inside, the most first; a
    first block often lacks a layer that the others have."""
    yield tuple(blocks)
    same: dict[tuple[str, ...], list[str]] = {}
    for path in blocks:
        inside = tuple(name for name, _ in model.get_submodule(path).named_modules())
        same.setdefault(inside, []).append(path)
    if len(same) > 1:
        yield from map(tuple, sorted(same.values(), key=len, reverse=True))
