"""Rows of one group from all processes, put together as one process would have them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from optimum_grail.core.producers import Rows
from optimum_grail.data.portion import Portion


def joined_rows(portion: Portion, what: str, rows: Rows, counts: Sequence[int]) -> Rows:
    """Rows of all processes in the order of the batches. Inputs that producers share are sent and kept once.

    Args:
        portion: the batches of this process, of those of all.
        what: they are, for messages.
        rows: those of this process's batches, one batch after the other.
        counts: how many rows each of its batches gives.
    """
    if portion.ranks.count == 1:
        return rows
    unique = list({id(tensor): tensor for tensor in rows.inputs}.values())
    place = [next(index for index, each in enumerate(unique) if each is tensor) for tensor in rows.inputs]
    shapes = portion.ranks.notes(what, place if sum(counts) else None)
    shared = next((found for found in shapes if found is not None), place)
    nothing = torch.empty(0)
    if not sum(counts):
        unique = [nothing] * (max(shared, default=-1) + 1)
    derivatives = list(rows.derivatives) if sum(counts) else [nothing] * len(shared)
    kept = [portion.joined(f"inputs of {what}", tensor, counts) for tensor in unique]
    return Rows(
        [kept[index] for index in shared],
        [portion.joined(f"derivatives of {what}", tensor, counts) for tensor in derivatives],
        portion.joined(f"features of {what}", rows.features if sum(counts) else nothing, counts),
        portion.joined(f"targets of {what}", rows.target if sum(counts) else nothing, counts),
    )
