"""Attention heads inside a block, read off the numbers.

One row of the queries moves the features of its own head where the consumer reads them, so many are the elements of a
head; one row of the keys moves those of all query heads that share it; one row of the values moves one feature of each
of these. A proposal made so is then confirmed for every unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optimum_grail.core.spec import Heads, Rows, Strip
from optimum_grail.models.matrix import columns, rows
from optimum_grail.proposals.bench import Bench
from optimum_grail.proposals.chains import Reach, by_unit, channelwise


@dataclass(frozen=True)
class Attention:
    """Heads as found.

    Args:
        spec: the declaration, without stream, attributes and fields.
        queries: number of query heads.
        keys: number of key-value heads.
        size: elements per head.
        module: path of the module that attends, in the block.
    """

    spec: Heads
    queries: int
    keys: int
    size: int
    module: str


def find_attention(bench: Bench, found: Reach) -> tuple[Attention | None, str]:
    """The heads that end in this consumer.

    Returns:
        them and ``""``, or ``None`` and why there are none.
    """
    if len(found.sources) > 3:
        return None, f"{len(found.sources)} layers reach {found.consumer}; heads are found where one to three do"
    roles = _roles(bench, found)
    if roles is None:
        return None, "in numbers, units do not reach features of their own"
    (query, key, value), size, per_key = roles
    width = columns(bench.matrices[found.consumer])
    if not size or width % (size * per_key):
        return None, "in numbers, units do not reach features of their own"
    queries = width // size
    keys = queries // per_key
    shared = keys == 1 and queries > 1
    units = queries if shared else keys
    for source, heads in ((query, queries), (key, keys), (value, keys)):
        if shared and source is not query:
            continue
        owners = _owners(bench, source, heads * size, units, (query, key, value))
        if owners is None or not by_unit(bench, _path(source), owners, found.consumer, width // units):
            return None, f"in numbers, heads of {_path(source)} do not reach features of their own"
    holder = head_size(bench, _path(value), size)
    if holder is None:
        return None, f"heads have {size} elements, but no attribute of the modules around them says so"
    spec = Heads(
        query,
        key,
        value,
        found.consumer,
        None,
        holder,
        shared=() if shared else None,
        channelwise=channelwise(bench, found),
    )
    return Attention(spec, queries, keys, size, holder.rpartition(".")[0]), ""


def _path(source: Rows) -> str:
    return source if isinstance(source, str) else source.module


def _moved(bench: Bench, source: str, row: int, consumer: str) -> Tensor:
    """Features of the consumer's input that one row of a producer moves, int64."""
    chosen = torch.arange(rows(bench.matrices[source])) == row
    seen = bench.run({source: bench.shaken(source, chosen)}, frozen=True)
    return bench.changed(consumer, seen).nonzero().flatten()


def _solid(features: Tensor) -> bool:
    """Whether the features are the first ones, without a gap."""
    return len(features) > 0 and int(features[-1]) == len(features) - 1


def _roles(bench: Bench, found: Reach) -> tuple[tuple[Rows, Rows, Rows], int, int] | None:
    """Query, key and value, elements per head, and query heads per key-value head."""
    width = columns(bench.matrices[found.consumer])
    if len(found.sources) == 1:
        return _fused(bench, found.sources[0], found.consumer, width)
    moved = {path: _moved(bench, path, 0, found.consumer) for path in found.sources}
    if len(found.sources) == 2:
        query, both = sorted(found.sources, key=_rank)
        size, height = len(moved[query]), rows(bench.matrices[both])
        if not size or not _solid(moved[query]) or height % (2 * size) or width % (height // 2):
            return None
        return (query, Strip(both, 0, 2), Strip(both, 1, 2)), size, width * 2 // height
    solid = [path for path in found.sources if _solid(moved[path]) and len(moved[path]) > 1]
    values = [path for path in found.sources if path not in solid]
    if len(solid) != 2 or len(values) != 1:
        return None
    few = min(len(moved[path]) for path in solid)
    query, key = sorted(solid, key=lambda path: (len(moved[path]) != few, -rows(bench.matrices[path]), _rank(path)))
    size = len(moved[query])
    if rows(bench.matrices[key]) != rows(bench.matrices[values[0]]) or width % rows(bench.matrices[key]):
        return None
    return (query, key, values[0]), size, width // rows(bench.matrices[key])


def _rank(path: str) -> int:
    """Queries before keys before others, by their customary names; the numbers cannot tell them apart."""
    name = path.rpartition(".")[2].lower()
    return 0 if name.startswith("q") else 1 if name.startswith("k") else 2


def _fused(bench: Bench, source: str, consumer: str, width: int) -> tuple[tuple[Rows, Rows, Rows], int, int] | None:
    """Queries, keys and values in one projection, one behind the other or side by side for every unit."""
    height, size = rows(bench.matrices[source]), len(_moved(bench, source, 0, consumer))
    keys = (height - width) // 2
    if keys <= 0 or size < 1 or keys % size or width % keys or height != width + 2 * keys:
        return None
    units = keys // size
    side = torch.arange(height) // (height // units)
    together = units > 1 and by_unit(bench, source, side, consumer, width // units)
    query, key, value = (Strip(source, part, 3, interleaved=together) for part in range(3))
    return (query, key, value), size, width // keys


def _owners(bench: Bench, source: Rows, length: int, units: int, all_of_them: tuple[Rows, ...]) -> Tensor | None:
    """The unit that owns each row; ``None`` where the rows do not split."""
    height = rows(bench.matrices[_path(source)])
    every = torch.arange(height)
    if length % units or height % units:
        return None
    if isinstance(source, Strip) and source.interleaved:
        return every // (height // units)
    if isinstance(source, str):
        return every // (length // units) if height == length else None
    start = source.part * length if source.of == 2 else _start(source, height, length)
    inside = (every >= start) & (every < start + length)
    return torch.where(inside, (every - start) // (length // units), -1)


def _start(source: Strip, height: int, length: int) -> int:
    """First row of a part of three: keys and values, equally long, are the last two."""
    return 0 if source.part == 0 else height - (3 - source.part) * length


def head_size(bench: Bench, value: str, size: int) -> str | None:
    """Path of the attribute that says how many elements a head has: of the module that holds the values' projection,
    or of one around it."""
    path = value
    while path:
        path = path.rpartition(".")[0]
        names = [
            name
            for name, found in vars(bench.block.get_submodule(path)).items()
            if type(found) is int and found == size
        ]
        for name in sorted(names, key=lambda name: not ("head" in name and ("dim" in name or "size" in name))):
            if not name.startswith(("num_", "n_head", "layer", "_")):
                return f"{path}.{name}".lstrip(".")
    return None
