"""Block influence: layers that change their input little lose most (MoDeGPT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.allocations._ratios import blocks_of, by_ratio
from optimum_grail.core import papers
from optimum_grail.core.budget import Budget, WidthClass
from optimum_grail.core.contracts import Allocation
from optimum_grail.core.problem import Need
from optimum_grail.errors import ConfigError

MOST = 0.95
"""Largest ratio that a layer may lose, as the authors clip it."""


@ALLOCATIONS.register
@dataclass(frozen=True)
class BlockInfluence(Allocation):
    """Layer ``l`` of ``L`` loses ``L φ softmax(-s / ε)_l`` for a mean ratio ``φ``, with the influence
    ``s_l = 1 - E cos(input, output)`` of its block (Lin et al. 2025, "MoDeGPT", section 3.3).

    Args:
        temperature: ``ε`` above; large values are uniform.
        drop: share of what goes that may be whole ``parts``, those of least influence for what they cost first, before
            channels follow (COMP, Xu et al. 2025); 0 for none.
        parts: ``"layers"`` go where the stock config can say their number; ``"sub-blocks"``, attention and FFN each by
            itself, anywhere (the checkpoint then needs the per-layer table).
    """

    temperature: float = 0.1
    drop: float = 0.0
    parts: Literal["layers", "sub-blocks"] = "layers"
    paper: ClassVar[str | None] = papers.MODEGPT

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.drop, bool) or not isinstance(self.drop, int | float) or not 0 <= self.drop <= 1:
            raise ConfigError(f"drop is {self.drop!r}; expected a number from 0 to 1, for example 0.5.")
        if self.parts not in ("layers", "sub-blocks"):
            raise ConfigError(f"parts is {self.parts!r}; expected 'layers' or 'sub-blocks'.")
        value = self.temperature
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ConfigError(f"temperature is {value!r}; expected a positive number, for example 0.1.")

    @property
    def needs(self) -> frozenset[Need]:
        """The influence of every block; of every sub-block where those may go."""
        return super().needs | {"influence"} | ({"part-influence"} if self.parts == "sub-blocks" else set())

    @property
    def drops_layers(self) -> bool:
        """Whether whole layers may go."""
        return self.drop > 0 and self.parts == "layers"

    def dropped(self, influence: Mapping[str, float], sizes: Mapping[str, float], asked: float) -> tuple[str, ...]:
        """As many of the parts of least influence per cost as fit into ``drop`` of what has to go; never all."""
        left, found = self.drop * asked, []
        for path in sorted(influence, key=lambda path: influence[path] / sizes[path])[:-1]:
            if sizes[path] <= left:
                found.append(path)
                left -= sizes[path]
        return tuple(path for path in influence if path in found)

    def __call__(self, classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
        """Widths of the layers' ratios, all scaled so that the budget is met; no ratio above 0.95."""
        blocks = blocks_of(classes)
        influence = torch.stack([classes[indices[0]].signal("influence") for indices in blocks.values()])
        shares = len(blocks) * (-influence / self.temperature).softmax(0)
        ratios = torch.empty(len(classes), dtype=torch.float64)
        for share, indices in zip(shares, blocks.values(), strict=True):
            ratios[indices] = share
        return by_ratio(classes, budget, lambda level: (level * ratios).clamp(max=MOST))
