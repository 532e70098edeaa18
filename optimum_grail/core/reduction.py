"""How the units of a group shrink: pruning and folding as one value of O(H) memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optimum_grail.errors import BudgetError


@dataclass(frozen=True)
class Reduction:
    """The encode ``E``: every unit goes to at most one slot, with a weight.

    Args:
        assignment: int64, shape ``[units]``; the slot of each unit, or -1 for a dropped unit.
        weight: float64, shape ``[units]``; row ``u`` enters its slot times ``weight[u]`` (1 for pruning, 1 / cluster
            size for folding).
        slots: number of slots, the reduced width in units.
    """

    assignment: Tensor
    weight: Tensor
    slots: int

    @classmethod
    def prune(cls, units: int, keep: Tensor) -> Reduction:
        """Keep the units ``keep`` (int64, distinct), in ascending order; drop the others.

        Raises:
            BudgetError: ``keep`` is empty, has repeats, or names a unit outside ``[0, units)``.
        """
        kept = torch.unique(keep.to("cpu", torch.int64))
        if not 0 < len(kept) <= units or len(kept) != keep.numel() or kept[0] < 0 or kept[-1] >= units:
            raise BudgetError(
                f"Cannot keep units {keep.tolist()[:8]} of {units}; expected 1 to {units} distinct units."
            )
        assignment = torch.full((units,), -1, dtype=torch.int64)
        assignment[kept] = torch.arange(len(kept))
        return cls(assignment, torch.ones(units, dtype=torch.float64), len(kept))

    @classmethod
    def drop_all(cls, units: int) -> Reduction:
        """The reduction that leaves no slot: the whole sub-block goes."""
        return cls(torch.full((units,), -1, dtype=torch.int64), torch.ones(units, dtype=torch.float64), 0)

    @classmethod
    def keep_all(cls, units: int) -> Reduction:
        """The reduction that drops nothing."""
        return cls.prune(units, torch.arange(units))

    @classmethod
    def fold(cls, assignment: Tensor) -> Reduction:
        """Merge the units of each cluster into their mean; ``assignment`` is int64 with clusters ``0 … K-1``.

        Raises:
            BudgetError: a cluster is empty or negative.
        """
        assignment = assignment.to("cpu", torch.int64)
        sizes = torch.bincount(assignment.clamp(min=0))
        if int(assignment.min()) < 0 or int(sizes.min()) == 0:
            raise BudgetError("A folding needs every unit in a cluster 0 … K-1 and no cluster empty.")
        return cls(assignment, 1.0 / sizes[assignment].double(), len(sizes))

    @property
    def is_selection(self) -> bool:
        """Whether every slot is exactly one unit with weight one."""
        live = self.assignment >= 0
        return int(live.sum()) == self.slots and bool((self.weight[live] == 1).all())

    @property
    def is_identity(self) -> bool:
        """Whether nothing is dropped, merged or moved."""
        return self.is_selection and torch.equal(self.assignment, torch.arange(len(self.assignment)))

    @property
    def kept(self) -> Tensor:
        """The lowest unit of each slot, in slot order; int64, shape ``[slots]``."""
        units = torch.arange(len(self.assignment))
        kept = torch.full((self.slots,), len(units), dtype=torch.int64)
        live = self.assignment >= 0
        return kept.scatter_reduce(0, self.assignment[live], units[live], "amin")

    def _gather(self, rows: Tensor, span: int) -> Tensor:
        units = self.kept.to(rows.device)
        return (units[:, None] * span + torch.arange(span, device=rows.device)).flatten()

    def encode_rows(self, rows: Tensor, span: int = 1) -> Tensor:
        """``E x``: shape ``[units * span, …]`` to ``[slots * span, …]``, dtype kept; an exact gather for pruning."""
        if self.is_selection:
            return rows[self._gather(rows, span)]
        live = (self.assignment >= 0).to(rows.device)
        blocks = rows.unflatten(0, (len(self.assignment), span))[live]
        slots = self.assignment.to(rows.device)[live]
        scale = self.weight.to(rows.device, rows.dtype)[live].reshape(-1, *[1] * (blocks.dim() - 1))
        out = rows.new_zeros(self.slots, *blocks.shape[1:])
        return out.index_add(0, slots, blocks * scale).flatten(0, 1)

    def encode_columns(self, matrix: Tensor, span: int = 1) -> Tensor:
        """``A Eᵀ``: shape ``[…, units * span]`` to ``[…, slots * span]``."""
        if self.is_selection:
            return matrix[..., self._gather(matrix, span)]
        return self.encode_rows(matrix.movedim(-1, 0), span).movedim(0, -1)

    def lift_columns(self, matrix: Tensor, span: int = 1) -> Tensor:
        """``W Mᵀ`` with the 0/1 membership ``M``: what plain pruning (columns kept) or folding (columns summed) does
        to a consumer of shape ``[O, units * span]``; returns ``[O, slots * span]``."""
        ones = Reduction(self.assignment, torch.ones_like(self.weight), self.slots)
        return ones.encode_columns(matrix, span)
