"""The plans of one block as tensors and notes, and back; what is read back may have been written by anyone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields as fields_of
from typing import Any

import torch
from torch import Tensor

from optimum_grail.checkpoints.block_store import BlockStore
from optimum_grail.checkpoints.plan_file import is_reduction
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.head_size import HeadReduction
from optimum_grail.core.plan import GroupPlan
from optimum_grail.core.reduction import Reduction
from optimum_grail.errors import CheckpointError
from optimum_grail.report import fields
from optimum_grail.report.report import GroupRow

PARTS = ("assignment", "weight", "order", "curve")
INSIDE = ("pairs", "values", "outputs")
"""Of a group whose heads have shrunk inside."""


def tensors_of(plans: Sequence[GroupPlan]) -> dict[str, Tensor]:
    """Everything of ``plans`` that is a tensor, by names that no module has."""
    found: dict[str, Tensor] = {}
    for plan in plans:
        parts = (plan.reduction.assignment, plan.reduction.weight, plan.order, plan.curve)
        found |= {_key(plan.group, part): value for part, value in zip(PARTS, parts, strict=True) if value is not None}
        if plan.inside is not None:
            inside = (plan.inside.pairs, plan.inside.values, plan.inside.outputs)
            found |= {_key(plan.group, part): value for part, value in zip(INSIDE, inside, strict=True)}
    return found


def notes_of(plans: Sequence[GroupPlan]) -> dict[str, Any]:
    """The rest, as JSON values."""
    return {
        plan.group.name: {
            "slots": plan.reduction.slots,
            "diagnostics": dict(plan.diagnostics),
            "refitted": plan.refitted,
        }
        for plan in plans
    }


def plans_from(store: BlockStore, path: str, groups: Sequence[ChannelGroup]) -> list[GroupPlan]:
    """The plans of a block, in the order in which they were carried out.

    Args:
        store: where they were put.
        path: of the block.
        groups: of the block, those about which anything was to be done.

    Raises:
        CheckpointError: they are damaged, or are no plans for these groups.
    """
    notes, shapes = store.notes(path).get("plans"), store.shapes(path)
    known = {group.name: group for group in groups}
    if not isinstance(notes, dict) or set(notes) != set(known):
        raise _wrong(path, store, "it has plans for other parts of the block")
    for name, group in known.items():
        if any(shape > (group.units * group.copies + 1,) or len(shape) != 1 for shape in _shapes(shapes, group)):
            raise _wrong(path, store, f"the plan of {name} has tensors of other sizes")
    try:
        return [_plan(store, path, known[name], shapes, note) for name, note in notes.items()]
    except CheckpointError as error:
        raise _wrong(path, store, str(error)) from error


def _plan(
    store: BlockStore, path: str, group: ChannelGroup, shapes: Mapping[str, tuple[int, ...]], note: object
) -> GroupPlan:
    known = note if isinstance(note, dict) else {}
    slots, diagnostics, refitted = known.get("slots"), known.get("diagnostics"), known.get("refitted")
    if not isinstance(diagnostics, dict):
        raise CheckpointError(f"the notes on {group.name} are no JSON objects")
    row = {field.name for field in fields_of(GroupRow)} & diagnostics.keys()
    said = {"name": group.name, "kind": group.kind, "units_before": 0, "units_after": 0}
    fields.read({**said, **{key: diagnostics[key] for key in row}}, GroupRow, group.name)
    fields.read(diagnostics, Mapping[str, Any], group.name)
    names = [_key(group, part) for part in PARTS]
    read = store.read(path, [name for name in names if name in shapes])
    assignment, weight, order, curve = (read.get(name) for name in names)
    if (
        assignment is None
        or weight is None
        or not is_reduction(assignment, weight)
        or not group.admits(len(assignment))
    ):
        raise CheckpointError(f"what it says of {group.name} is no reduction of {group.units} units")
    if type(slots) is not int or slots != int(assignment.max()) + 1 or not _uses_all(assignment, slots):
        raise CheckpointError(f"{group.name} is not reduced to the slots that it names")
    if not _is_order(order, group.units) or (curve is not None and not curve.is_floating_point()):
        raise CheckpointError(f"the removal order of {group.name} is none")
    if type(refitted) is not bool:
        raise CheckpointError(f"the notes on {group.name} do not say whether its producers were refitted")
    inside = _inside(store, path, group, shapes)
    group = group if inside is None else group.resized(inside.size)
    reduction = Reduction(assignment, weight, slots)
    return GroupPlan(group, reduction, None, order, curve, diagnostics, refitted=refitted, inside=inside)


def _inside(
    store: BlockStore, path: str, group: ChannelGroup, shapes: Mapping[str, tuple[int, ...]]
) -> HeadReduction | None:
    """How the heads of a group have shrunk inside; ``None``: not at all."""
    names = [_key(group, part) for part in INSIDE]
    if not any(name in shapes for name in names):
        return None
    if group.inside is None or [len(shapes.get(name, ())) for name in names] != [1, 3, 3]:
        raise CheckpointError(f"it does not say how the heads of {group.name} have shrunk")
    size = group.inside.size
    heads, kept = group.consumer.span * group.units // size, 2 * shapes[names[0]][0]
    shared = shapes[names[1]][0]
    if [shapes[name] for name in names[1:]] != [(shared, kept, size), (heads, size, kept)] or heads % max(shared, 1):
        raise CheckpointError(f"what it says of the heads of {group.name} does not fit them")
    read = store.read(path, names)
    pairs, values, outputs = (read[name] for name in names)
    inside = pairs.dtype == torch.int64 and torch.equal(pairs, torch.unique(pairs)) and len(pairs) > 0
    if not inside or not bool(((pairs >= 0) & (pairs < size // 2)).all()):
        raise CheckpointError(f"the rotation pairs that stay in {group.name} are none")
    if not bool(torch.isfinite(values).all()) or not bool(torch.isfinite(outputs).all()):
        raise CheckpointError(f"what it says of the heads of {group.name} is not finite")
    return HeadReduction(pairs, values.double(), outputs.double())


def _key(group: ChannelGroup, part: str) -> str:
    return f"plan/{group.name}/{part}"


def _shapes(shapes: Mapping[str, tuple[int, ...]], group: ChannelGroup) -> Iterator[tuple[int, ...]]:
    return (shapes[_key(group, part)] for part in PARTS if _key(group, part) in shapes)


def _uses_all(assignment: Tensor, slots: int) -> bool:
    return len(torch.unique(assignment[assignment >= 0])) == slots


def _is_order(order: Tensor | None, units: int) -> bool:
    """Whether there is none, or it names different units."""
    if order is None:
        return True
    inside = order.dtype == torch.int64 and bool(((order >= 0) & (order < units)).all())
    return inside and len(torch.unique(order)) == len(order)


def _wrong(path: str, store: BlockStore, reason: str) -> CheckpointError:
    return CheckpointError(f"What was kept of block {path!r} cannot be used: {reason}. {store.remedy}")
