"""What the user asked to go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from optimum_grail.config.config import GrailConfig
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.models.layout import Layout

FLAGS = {"mlp": "--ffn-sparsity", "heads": "--head-sparsity", "conv": "--channel-sparsity"}
Accepts = Callable[[Sequence[ChannelGroup], int], bool]
"""``(groups of one width, units kept) -> whether the stock config can say it``."""


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Args:
        sparsity: fraction of the blocks' parameters (or of another resource) that goes, or ``None`` when ``kinds`` is
            given.
        kinds: fraction of the units that goes, by kind.
        standalone: ``True``: only widths the stock config can say; ``False``: any; ``None``: where possible.
        dense: parameters of the blocks that ``sparsity`` is a fraction of, where they differ from the layout's
            (biases were added).
    """

    sparsity: float | None
    kinds: Mapping[str, float] = field(default_factory=dict)
    standalone: bool | None = None
    dense: int | None = None

    @classmethod
    def of(cls, config: GrailConfig, dense: int | None = None) -> Request:
        """The request of a resolved configuration; ``dense`` as in the class."""
        kinds = {"mlp": config.ffn_sparsity, "heads": config.head_sparsity, "conv": config.channel_sparsity}
        named = {kind: value for kind, value in kinds.items() if value is not None}
        return cls(config.sparsity, named, config.standalone, dense)

    def asked(self, layout: Layout) -> float:
        """Parameters of the blocks of ``layout`` that have to go."""
        dense = layout.block_parameters if self.dense is None else self.dense
        return layout.block_parameters - (1 - (self.sparsity or 0.0)) * dense
