"""What a budget counts: parameters, FLOPs, the key-value cache, or measured latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optimum_grail.models.layout import Layout
from optimum_grail.pipeline.findings import Findings
from optimum_grail.pipeline.request import Request

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


def parameters(layout: Layout, request: Request, findings: Findings) -> Resource:
    """Parameters of the blocks."""
    return Resource(
        name="parameters",
        costs={group.name: group.cost for group in layout.groups},
        total=layout.block_parameters,
        asked=request.asked(layout),
        blocks={path: float(count) for path, count in findings.of("parameters").items()},
        removed=layout.removed_parameters,
    )
