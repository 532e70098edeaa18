"""What attention would lose without each of its rotation pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup, RotaryHeads
from optimum_grail.core.head_size import pair_errors
from optimum_grail.models.head_size import POSITIONS
from optimum_grail.signals import SIGNALS, Signal, Tensors, Visit, Work
from optimum_grail.streams.calls import Call
from optimum_grail.streams.hooks import hooked
from optimum_grail.streams.probe import Wanted

MOST_QUERIES = 64
"""Queries of a sample that are looked at, evenly spread: what they see is all of its tokens."""


@SIGNALS.register
@dataclass(frozen=True)
class RotationPairs(Signal):
    """:func:`optimum_grail.core.head_size.pair_errors` summed over the query heads of every group whose heads can
    shrink inside and over the few batches' queries, per query; float64 ``[pairs, pairs]`` by group."""

    wanted: ClassVar[Wanted | None] = Wanted()

    def block(self, visit: Visit, sums: Tensors, found: Tensors) -> Tensors:
        """The errors of the block's attention."""
        block, errors = visit.dense.model.get_submodule(visit.path), dict[str, Tensor]()
        for group in visit.groups:
            if group.inside is None:
                continue
            pairs = group.inside.size // 2
            total, count = torch.zeros(pairs, pairs, dtype=torch.float64), 0
            for index, hidden in zip(visit.dense.few, visit.inputs, strict=True):
                mask = visit.dense.batches[index].inputs.get(visit.stack.mask or "")
                seen = _seen(visit.dense.model, block, group, visit.calls[visit.path][index], hidden)
                found_here, queries = _errors(seen, group.inside, mask)
                total, count = total + found_here, count + queries
            parts = {"errors": total, "queries": torch.tensor(count)}
            whole = visit.dense.batches.ranks.added(f"rotation pairs of {group.name}", parts)
            errors[group.name] = whole["errors"] / max(int(whole["queries"]), 1)
        return errors

    def cost(self, work: Work) -> float:
        """A pass of the few batches, and about as much again for the products."""
        return 2 * work.probe


@dataclass
class _Seen:
    """Queries and keys of one batch before their positions are applied, ``[B, T, heads * D]``, and what the attention
    was called with."""

    query: Tensor | None = None
    key: Tensor | None = None
    call: dict[str, Any] | None = None


@torch.no_grad()
def _seen(model: nn.Module, block: nn.Module, group: ChannelGroup, call: Call, hidden: Tensor) -> _Seen:
    seen = _Seen()

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        """A hook that keeps what a projection puts out."""
        return lambda _, args, output: setattr(seen, name, output)

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the call."""
        seen.call = kwargs

    inside = group.inside
    if inside is not None:
        projections = [(inside.query, keep("query")), (inside.key, keep("key"))]
        after = [(model.get_submodule(path), hook) for path, hook in projections]
        with hooked(before=[(model.get_submodule(str(group.attention)), enter)], after=after):
            call.run(block, hidden.clone())
    return seen


def _errors(seen: _Seen, inside: RotaryHeads, mask: Tensor | None) -> tuple[Tensor, int]:
    """The errors summed over heads and queries, and how many queries there were."""
    pairs, count = inside.size // 2, 0
    total = torch.zeros(pairs, pairs, dtype=torch.float64)
    if seen.query is None or seen.key is None or seen.call is None:
        return total, count
    cos, sin = (turn.float() for turn in seen.call[POSITIONS])
    query, key = (_turned(item.float().unflatten(-1, (-1, inside.size)), cos, sin) for item in (seen.query, seen.key))
    shared = query.shape[2] // key.shape[2]
    allowed = _allowed(seen.call.get("attention_mask"), mask, query)
    for sample in range(len(query)):
        sees = allowed[sample]
        rows = torch.nonzero(sees.any(1)).flatten()
        rows = rows[:: max(1, len(rows) // MOST_QUERIES)]
        for head in range(query.shape[2]):
            errors = pair_errors(
                query[sample, rows, head], key[sample, :, head // shared], sees[rows], inside.size**-0.5
            )
            total += errors.cpu()
        count += len(rows)
    return total, count


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys ``[B, T, heads, D]`` with their positions applied."""
    first, second = heads.chunk(2, -1)
    return heads * cos[:, :, None] + torch.cat([-second, first], -1) * sin[:, :, None]


def _allowed(given: object, mask: Tensor | None, query: Tensor) -> Tensor:
    """Which keys each query sees, bool ``[B, T, T]``: by the attention's own mask, else those before it and itself; no
    query of padding."""
    batch, tokens = query.shape[:2]
    if isinstance(given, Tensor) and given.dim() == 4:
        seen = given[:, 0, :, :tokens]
        seen = (seen if seen.dtype == torch.bool else seen == 0).expand(batch, tokens, tokens)
    else:
        seen = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril().expand(batch, tokens, tokens)
    real = None if mask is None else mask.to(query.device).bool()
    return seen if real is None else seen & real[:, :, None] & real[:, None, :]
