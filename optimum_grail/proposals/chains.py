"""Producers and their consumer inside a block, confirmed in numbers: what moves which feature of what.

Of a layer that could produce, the units are moved by the bits of their numbers, once those whose bit is set and once
the others. If in every such run exactly the features of the moved units change where the consumer reads them, each
unit reaches its own features and no others; that takes two runs per bit instead of one per unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from optimum_grail.core.spec import Conv, GroupSpec, Mlp, Rows, Strip
from optimum_grail.models.matrix import columns, is_channelwise, is_norm, rows
from optimum_grail.proposals.bench import Bench

MOST_PARTS = 3
PUSHES = (1.0, 10.0, -10.0)
"""How hard units are pushed in turn, until all that should have moved have."""


@dataclass(frozen=True)
class Reach:
    """What reaches a consumer's input with no other linear layer or convolution in between.

    Args:
        consumer: path of the consumer in its block.
        sources: layers whose output does.
        leaks: why the features are not the sources' alone; empty if they are.
    """

    consumer: str
    sources: tuple[str, ...]
    leaks: str = ""


def reaches(bench: Bench) -> list[Reach]:
    """For every layer of the block that could consume: what enters it directly."""
    into: dict[str, list[str]] = {path: [] for path in bench.matrices}
    beyond: dict[str, list[str]] = {path: [] for path in bench.matrices}
    for source, module in bench.matrices.items():
        everything = torch.ones(rows(module), dtype=torch.bool)
        seen = bench.run({source: bench.shaken(source, everything)}, frozen=True)
        met = [path for path in bench.matrices if path != source and bench.changed(path, seen).any()]
        for path in met:
            into[path].append(source)
        at_end = seen.result is None or not torch.equal(seen.result, cast(Tensor, bench.run({}, frozen=True).result))
        beyond[source] = met + ["the block's output"] * at_end
    state = bench.run({}, frozen=True, entering_by=lambda state: state + torch.randn_like(state))
    found = []
    for path, sources in into.items():
        if not sources:
            continue
        shared = next(
            (f"{source} is read by {', '.join(beyond[source])}" for source in sources if len(beyond[source]) > 1), ""
        )
        own = "what enters the block enters it as well" if bench.changed(path, state).any() else ""
        found.append(Reach(path, tuple(sources), own or shared))
    return found


def by_unit(bench: Bench, source: str, owners: Tensor, consumer: str, span: int = 1) -> bool:
    """Whether every unit of a producer moves its own features of the consumer's input and no others.

    Units that move nothing at all, as a rectifier makes of some, tell nothing for or against; half of all have to move.

    Args:
        bench: the block.
        source: path of the producer.
        owners: int64 ``[rows]``, the unit that owns each row; -1: none that is looked at.
        consumer: path of the consumer.
        span: features per unit there.

    Returns:
        the verdict.
    """
    features = columns(bench.matrices[consumer])
    units = torch.arange(features) // span
    if features % span or int(owners.max()) + 1 != features // span:
        return False
    alive = torch.zeros(features // span, dtype=torch.bool)
    for strength in PUSHES:
        seen = bench.run({source: bench.shaken(source, owners >= 0, strength)}, frozen=True)
        alive |= bench.changed(consumer, seen).view(-1, span).any(1)
    if 2 * int(alive.sum()) < len(alive):
        return False
    alive = alive.repeat_interleave(span)
    bits = range(max(1, (features // span - 1).bit_length()))
    for chosen in (
        sign
        for bit in bits
        for sign in (lambda unit, b=bit: unit >> b & 1 == 1, lambda unit, b=bit: unit >> b & 1 == 0)
    ):
        if not _moves_just(bench, source, chosen(owners) & (owners >= 0), consumer, chosen(units) & alive, span):
            return False
    return True


def _moves_just(bench: Bench, source: str, moved: Tensor, consumer: str, expected: Tensor, span: int) -> bool:
    """Whether moving some rows of ``source`` moves the expected features of ``consumer``, one of a unit's at least, and
    no others. Units that seem at rest are pushed harder, both ways: a ReLU may have hidden them."""
    wanted, changed = expected.view(-1, span)[:, 0], torch.zeros_like(expected.view(-1, span)[:, 0])
    for strength in PUSHES:
        seen = bench.run({source: bench.shaken(source, moved, strength)}, frozen=True)
        changed |= bench.changed(consumer, seen).view(-1, span).any(1)
        if torch.equal(changed, wanted):
            return True
        if (changed & ~wanted).any():
            return False
    return False


def rows_of(bench: Bench, source: Rows, units: int) -> Tensor:
    """The unit that owns each row of a producer of feed-forward units: int64 ``[rows]``, -1 where none does."""
    path = source if isinstance(source, str) else source.module
    height = rows(bench.matrices[path])
    if isinstance(source, str):
        return torch.arange(height)
    every = torch.arange(height)
    if source.interleaved:
        return torch.where(every % source.of == source.part, every // source.of, -1)
    inside = (every >= source.part * units) & (every < (source.part + 1) * units)
    return torch.where(inside, every - source.part * units, -1)


def pairs(bench: Bench, found: Reach) -> GroupSpec | None:
    """The feed-forward or convolution group that ends in this consumer, without a stream; ``None`` if it is none."""
    units = columns(bench.matrices[found.consumer])
    produce: list[Rows] = []
    for path in found.sources:
        parts = next(
            (
                parts
                for parts in _parts(path, rows(bench.matrices[path]), units)
                if all(by_unit(bench, path, rows_of(bench, part, units), found.consumer) for part in parts)
            ),
            None,
        )
        if parts is None:
            return None
        produce += parts
    between = channelwise(bench, found)
    first = produce[0]
    if isinstance(bench.matrices[found.consumer], nn.Conv2d) and len(produce) == 1 and isinstance(first, str):
        return Conv(
            produce=first,
            consume=found.consumer,
            stream=None,
            channelwise=between,
            consume_norm=norm_after(bench, found.consumer),
        )
    return Mlp(produce=tuple(produce), consume=found.consumer, stream=None, channelwise=between)


def _parts(path: str, height: int, units: int) -> Iterator[list[Rows]]:
    """The ways in which the rows of a layer can be so many units."""
    if height == units:
        yield [path]
    for count in range(2, MOST_PARTS + 1):
        if height == count * units:
            for interleaved in (False, True):
                yield [Strip(path, part, count, interleaved) for part in range(count)]


def channelwise(bench: Bench, found: Reach) -> tuple[str, ...]:
    """Modules between the sources and the consumer that hold something per channel, in the order of the calls."""
    moved = [
        bench.run({path: bench.shaken(path, torch.ones(rows(bench.matrices[path]), dtype=torch.bool))}, frozen=True)
        for path in found.sources
    ]
    units = columns(bench.matrices[found.consumer])
    between = []
    for path in bench.reference.inputs:
        module = bench.block.get_submodule(path)
        if path in bench.matrices or not is_channelwise(module) or rows(module) % units:
            continue
        if not any(bench.changed(path, seen).any() for seen in moved):
            continue
        seen = bench.run({path: bench.shaken(path, torch.ones(rows(module), dtype=torch.bool))}, frozen=True)
        if bench.changed(found.consumer, seen).any():
            between.append(path)
    return tuple(between)


def norm_after(bench: Bench, consumer: str) -> str | None:
    """Path of the BatchNorm that takes exactly what ``consumer`` puts out, if there is one."""
    put_out = bench.reference.outputs[consumer]
    for path, state in bench.reference.inputs.items():
        if is_norm(bench.block.get_submodule(path)) and state.shape == put_out.shape and torch.equal(state, put_out):
            return path
    return None
