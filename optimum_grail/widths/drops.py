"""Which blocks may go altogether."""

from __future__ import annotations

from itertools import combinations

from optimum_grail.widths.classes import Sharing

CANDIDATES = 6
"""Number of blocks, those of least damage, that are tried alone and in pairs."""


def drop_sets(sharing: Sharing) -> list[tuple[str, ...]]:
    """Sets of blocks whose loss the budget allows: the least harmful ones alone and in pairs, and from three on the
    least harmful so many; none where no stock config can say the number of layers. Paths in the order of the model."""
    harm = {path: float(value) for path, value in sharing.findings.of("drops").items() if sharing.may_go(path)}
    layers = [path for stack in sharing.layout.stacks if stack.spec.depth_field for path in stack.blocks]
    ranked = sorted((path for path in layers if path in harm), key=harm.__getitem__)
    few = ranked[:CANDIDATES]
    found: list[tuple[str, ...]] = [*combinations(few, 1), *combinations(few, 2)]
    found += (tuple(ranked[:count]) for count in range(3, len(ranked)))
    return [tuple(sorted(item, key=layers.index)) for item in found if _allowed(sharing, item)]


def _allowed(sharing: Sharing, dropped: tuple[str, ...]) -> bool:
    """Whether dropping these blocks removes no more than was asked, and leaves every stack a block."""
    resource = sharing.resource
    gone = sum(resource.blocks[path] for path in dropped)
    stays = all(any(path not in dropped for path in stack.blocks) for stack in sharing.layout.stacks)
    return stays and gone <= resource.asked
