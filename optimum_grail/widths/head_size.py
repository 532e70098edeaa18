"""How many dimensions heads keep inside, and which rotation pairs these are."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from optimum_grail.core.head_size import choose_pairs, fewer_dimensions
from optimum_grail.core.spec import Heads
from optimum_grail.errors import ArchitectureError, BudgetError
from optimum_grail.models.layout import Layout
from optimum_grail.survey.findings import Findings
from optimum_grail.widths.request import Request

KERNELS = (64, 80, 96, 112, 128)
"""Head sizes that the attention kernels of inference engines on GPUs commonly have."""


def new_head_sizes(layout: Layout, request: Request, protected: Collection[str] = ()) -> dict[str, int]:
    """Dimensions that every head keeps, by owner; empty where that was not asked for.

    Args:
        layout: of the dense model.
        request: what was asked for.
        protected: names of groups that stay whole.

    Raises:
        ArchitectureError: heads of this family cannot shrink inside; the message says why.
        BudgetError: none, or too little to be a pair of dimensions, would go; or heads are protected.
    """
    if request.inside is None:
        return {}
    asked = f"--head-dim-sparsity {request.inside:g}"
    sizes: dict[str, int] = {}
    for group in (group for group in layout.groups if group.kind == "heads"):
        if group.inside is None:
            raise ArchitectureError(
                f"{asked}: the heads of {group.name!r} cannot shrink inside: {why_rigid(layout, group.name)}."
            )
        if group.name in protected:
            raise BudgetError(
                f"{asked} takes dimensions from the heads of all layers, but protect keeps {group.name!r} whole: all "
                "layers share one head size. Leave out one of the two."
            )
        whole = group.inside.size
        sizes[group.owner] = fewer_dimensions(whole, request.inside)
        if sizes[group.owner] == whole:
            raise BudgetError(
                f"{asked} leaves all {whole} dimensions of a head: they go in pairs. Ask for at least {2 / whole:.4g}."
            )
    if not sizes:
        raise BudgetError(f"{asked}: this model has no attention heads.")
    return sizes


def why_rigid(layout: Layout, name: str) -> str:
    """Why the heads of the group ``name`` cannot lose dimensions: the end of a sentence for users."""
    spec = layout.specs[name]
    if isinstance(spec, Heads) and spec.rigid:
        return spec.rigid
    return (
        "their map names no rotary positions (rotary) that turn the two halves of a head against each other, with "
        "head_dim and rope_parameters in the config; only such heads can lose dimensions and stay of a stock class"
    )


def pairs_left(layout: Layout, request: Request, findings: Findings) -> dict[str, Tensor]:
    """The rotation pairs that stay, int64, by owner: one set for all heads and layers of an owner, because one config
    says how fast pairs turn. Empty where nothing was asked for, or nothing measured yet."""
    damages = findings.of("rotation-pairs")
    sizes = new_head_sizes(layout, request).items() if damages else ()
    return {owner: choose_pairs(damages[owner], size // 2) for owner, size in sizes}


def head_notes(layout: Layout, request: Request) -> list[str]:
    """What the user should know of the new head sizes."""
    return [
        f"Heads keep {size} dimensions. Fast attention kernels of inference engines want "
        f"{', '.join(map(str, KERNELS[:-1]))} or {KERNELS[-1]}; others run slower there, or not at all."
        for size in new_head_sizes(layout, request).values()
        if size not in KERNELS
    ]
