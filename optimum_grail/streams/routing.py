"""What a block's router does on the student's stream: the statistics by which whole experts are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.routing import Routing
from optimum_grail.errors import StatisticsError
from optimum_grail.models.banks import Routed
from optimum_grail.streams.blocks import BlockRun
from optimum_grail.streams.hooks import Reached, hooked


@dataclass
class _Sums:
    """:class:`Routing` in the making; experts are looked at one by one, so that only one has rows in memory."""

    tokens: Tensor
    gates: Tensor
    outputs: Tensor
    count: int = 0

    @classmethod
    def zero(cls, experts: int) -> _Sums:
        """No tokens yet."""
        tokens, gates, outputs = (torch.zeros(experts, dtype=torch.float64) for _ in range(3))
        return cls(tokens, gates, outputs)

    def add_(self, bank: nn.Module, routed: Routed, real: Tensor | None) -> None:
        """Add one call of the bank; ``real`` ``[N]`` tells which rows are no padding."""
        self.count += len(routed.states) if real is None else int(real.sum())
        for expert in range(len(self.tokens)):
            rows, gates = routed.rows_of(expert)
            if real is not None:
                live = real[rows]
                rows, gates = rows[live], gates[live]
            if not len(rows):
                continue
            size = routed.outputs(bank, expert, routed.hidden(bank, expert, rows)).float().norm(dim=-1)
            self.tokens[expert] += len(rows)
            self.gates[expert] += gates.double().sum().cpu()
            self.outputs[expert] += (gates.float() * size).double().sum().cpu()


@torch.no_grad()
def routing_of(run: BlockRun, group: ChannelGroup) -> Routing:
    """How often the student's router chooses each expert of ``group``, and how much they put out.

    Args:
        run: the block that holds the group; neither of its streams moves.
        group: experts, none of them gone yet.

    Raises:
        StatisticsError: all rows are padding, or what an expert puts out is not finite.
    """
    bank = run.block.get_submodule(group.consumer.module.removeprefix(f"{run.path}."))
    sums = _Sums.zero(group.units)
    for index, call in enumerate(run.calls):
        mask = run.batches.masks[index]
        real = None if mask is None else mask.flatten().to(bank.get_parameter("down_proj").device, torch.bool)

        def count(
            module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], real: Tensor | None = real
        ) -> None:
            """Add the call, and end the run there."""
            sums.add_(module, Routed.of(args, kwargs), real)
            raise Reached

        with suppress(Reached), hooked(before=[(bank, count)]):
            call.run(run.block, run.streams.student[index].clone())
    if not sums.count:
        raise StatisticsError(
            f"Group {group.name!r} saw no calibration rows. Check the attention masks of the dataset."
        )
    if not bool(torch.isfinite(sums.outputs).all()):
        raise StatisticsError(
            f"The experts of {group.name!r} put out NaN or infinite values on the calibration data. Check the "
            "checkpoint for NaN weights, or compute in float32 (--dtype float32)."
        )
    return Routing(sums.tokens, sums.gates, sums.outputs, sums.count)
