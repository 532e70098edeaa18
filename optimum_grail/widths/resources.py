"""What a budget counts: parameters, their bytes, FLOPs, the key-value cache, or measured latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.errors import BudgetError
from optimum_grail.models.layout import Layout
from optimum_grail.survey.findings import Findings
from optimum_grail.widths.request import FLAGS, Request

Removed = Callable[[Mapping[str, int]], float]
"""``units kept by group -> how much of the resource goes``; groups that are not named keep all."""


@dataclass(frozen=True)
class Resource:
    """What a budget counts.

    Args:
        name: for messages.
        costs: by group, what a unit costs; or, where costs do not add up, what each width from 0 on does.
        total: what all blocks cost.
        asked: how much of it has to go.
        blocks: by path, what a block costs; empty if no block may go.
        removed: what really goes, where groups share modules.
    """

    name: str
    costs: Mapping[str, int | tuple[int, ...]]
    total: float
    asked: float
    blocks: Mapping[str, float]
    removed: Removed

    def whole(self, place: str) -> float:
        """Cost of a whole block, given its path, or of all units of a group, given its name."""
        return self.blocks[place] if place in self.blocks else self.removed({place: 0})

    def fraction(self, kept: Mapping[str, int], dropped: Sequence[str]) -> float:
        """The fraction that goes with the widths of the groups that stay and the paths of the blocks that go."""
        return (self.removed(kept) + sum(self.whole(path) for path in dropped)) / self.total


def resource_of(name: str, layout: Layout, request: Request, findings: Findings) -> Resource:
    """The resource called ``name``.

    Args:
        name: ``"parameters"``, ``"bytes"``, ``"flops"``, ``"kv-cache"`` or ``"latency"``.
        layout: of the dense model.
        request: what the user asked for.
        findings: for FLOPs the survey's ``positions``, for latency its ``latency``.

    Raises:
        BudgetError: units of a kind were asked to go, or there are no heads whose keys and values could.
    """
    if name != "parameters" and request.sparsity is None:
        flags = ", ".join(FLAGS[kind] for kind in request.kinds)
        raise BudgetError(
            f"budget={name} needs --sparsity, a fraction of all blocks; {flags} counts heads or channels."
        )
    kinds = {"parameters": _parameters, "bytes": _bytes, "flops": _flops, "kv-cache": _cache, "latency": _latency}
    return kinds[name](layout, request, findings)


def _parameters(layout: Layout, request: Request, findings: Findings) -> Resource:
    return Resource(
        name="parameters",
        costs={group.name: group.cost for group in layout.groups},
        total=layout.block_parameters,
        asked=request.asked(layout),
        blocks={path: float(count) for path, count in _droppable(layout).items()},
        removed=layout.removed_parameters,
    )


def _bytes(layout: Layout, request: Request, findings: Findings) -> Resource:
    """Of the parameters in the dtypes that they have in the checkpoint; blocks that go are alike."""
    times = {path: size.itemsize for path, size in layout.weights.items()}
    times |= {table.path: times[group.consumer.module] for group in layout.groups for table in group.tables}

    def removed(widths: Mapping[str, int]) -> float:
        """Bytes removed when groups have these widths."""
        return layout.removed_parameters(widths, times)

    mean = layout.block_bytes / max(layout.block_parameters, 1)
    return Resource(
        name="bytes",
        costs={group.name: round(removed({group.name: group.units - 1})) for group in layout.groups},
        total=layout.block_bytes,
        asked=(request.sparsity or 0.0) * layout.block_bytes,
        blocks={path: mean * float(count) for path, count in _droppable(layout).items()},
        removed=removed,
    )


def _flops(layout: Layout, request: Request, findings: Findings) -> Resource:
    """Per sample: two for every use of a parameter, and for attention ``4 T²`` per feature of a head."""
    uses = {path: (int(found[0]), int(found[1])) for path, found in findings.of("positions").items()}
    times = {path: 2 * count for path, (count, _) in uses.items()}
    scores = {g.name: 4 * uses[g.consumer.module][0] ** 2 * g.consumer.span for g in layout.groups if g.kind == "heads"}

    def removed(widths: Mapping[str, int]) -> float:
        """Operations removed when groups have these widths."""
        lost = {name: layout.group(name).units - kept for name, kept in widths.items()}
        return layout.removed_parameters(widths, times) + sum(scores.get(name, 0) * gone for name, gone in lost.items())

    blocks = {}
    for path in _blocks(layout):
        own = sum(times[module] * size for module, (_, size) in uses.items() if module.startswith(path + "."))
        blocks[path] = float(own + sum(scores.get(g.name, 0) * g.units for g in layout.of_block(path)))
    costs: dict[str, int | tuple[int, ...]] = {g.name: round(removed({g.name: g.units - 1})) for g in layout.groups}
    return _measured("FLOPs", costs, blocks, request, removed)


def _cache(layout: Layout, request: Request, findings: Findings) -> Resource:
    """Per token: the elements of keys and values."""
    heads = {g.name: g.cached for g in layout.groups if g.cached}
    if not heads:
        raise BudgetError("budget=kv-cache: this model has no attention heads, so nothing of it can go (reachable: 0).")
    costs: dict[str, int | tuple[int, ...]] = {group.name: heads.get(group.name, 0) for group in layout.groups}
    blocks = {
        path: float(sum(heads.get(group.name, 0) * group.units for group in layout.of_block(path)))
        for path in _blocks(layout)
    }
    return _measured("key-value cache", costs, blocks, request, _summed(layout, costs))


def _latency(layout: Layout, request: Request, findings: Findings) -> Resource:
    """Nanoseconds of the blocks on the survey's batch; a group's is what its block takes longer than without it."""
    found = findings.of("latency")
    costs: dict[str, int | tuple[int, ...]] = {group.name: _nanoseconds(found[group.name]) for group in layout.groups}
    blocks = {path: float(found[path]) * 1e9 for path in _blocks(layout)}
    return _measured("latency", costs, blocks, request, _summed(layout, costs))


def _measured(
    name: str,
    costs: Mapping[str, int | tuple[int, ...]],
    blocks: Mapping[str, float],
    request: Request,
    removed: Removed,
) -> Resource:
    total = sum(blocks.values())
    return Resource(name, costs, total, (request.sparsity or 0.0) * total, blocks, removed)


def _summed(layout: Layout, costs: Mapping[str, int | tuple[int, ...]]) -> Removed:
    def price(group: ChannelGroup, width: int) -> int:
        """Cost of a group at a width."""
        cost = costs[group.name]
        return cost * width if isinstance(cost, int) else cost[width]

    def removed(widths: Mapping[str, int]) -> float:
        """How much of the resource is removed when groups have these widths."""
        groups = [layout.group(name) for name in widths]
        return sum(price(group, group.units) - price(group, widths[group.name]) for group in groups)

    return removed


def _nanoseconds(seconds: Tensor) -> tuple[int, ...]:
    return tuple(round(float(value) * 1e9) for value in seconds - seconds[0])


def _blocks(layout: Layout) -> list[str]:
    return [path for stack in layout.stacks for path in stack.blocks]


def _droppable(layout: Layout) -> dict[str, int]:
    """Parameters of the blocks that may go altogether: where the config can say how many there are."""
    return {path: layout.sizes[path] for stack in layout.stacks if stack.spec.depth_field for path in stack.blocks}
