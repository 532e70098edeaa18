"""Parameters beside the projections of an attention that have elements for every head."""

from __future__ import annotations

from torch import Tensor, nn

from optimum_grail.core.groups import HeadTable
from optimum_grail.core.spec import Heads
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.attributes import read


def tables_of(model: nn.Module, block: str, spec: Heads, units: int, span: int) -> tuple[HeadTable, ...]:
    """The tables that ``spec`` declares and the block at ``block`` has.

    Args:
        model: the model.
        block: path of the block.
        spec: the declaration.
        units: of the group.
        span: query heads per unit.

    Raises:
        ArchitectureError: one is no parameter, or does not have an element for every query head along its axis.
    """
    found, heads = [], units * span
    for local, axis in spec.tables:
        path = f"{block}.{local}".lstrip(".")
        table = read(model, path)
        if table is None:
            continue
        if not isinstance(table, nn.Parameter) or axis >= table.dim() or table.shape[axis] != heads:
            raise ArchitectureError(
                f"The map expects {heads} heads along axis {axis} of {path}; found "
                f"{tuple(table.shape) if isinstance(table, Tensor) else type(table).__name__}. Correct the map."
            )
        found.append(HeadTable(path, axis, span, table.numel() // max(units, 1)))  # a compressed model may have none
    return tuple(found)
