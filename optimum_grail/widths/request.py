"""What the user asked to go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from optimum_grail.config.config import GrailConfig
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.errors import BudgetError
from optimum_grail.models.layout import Layout

FLAGS = {
    "mlp": "--ffn-sparsity",
    "heads": "--head-sparsity",
    "conv": "--channel-sparsity",
    "experts": "--expert-sparsity",
    "expert-channels": "--expert-ffn-sparsity",
    "shared-channels": "--expert-ffn-sparsity",
}
NOUNS = {
    "mlp": "feed-forward channels",
    "heads": "attention heads",
    "conv": "convolution channels",
    "experts": "experts",
    "expert-channels": "channels inside experts",
    "shared-channels": "channels of shared experts",
}
"""What the units of a kind are called in sentences."""
Expressible = Callable[[Sequence[ChannelGroup], int], bool]
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
        size: ``(field, value)`` where a size of the whole model was asked for; ``sparsity`` is then what that comes to.
        inside: fraction of every head's dimensions that goes, or ``None``.
    """

    sparsity: float | None
    kinds: Mapping[str, float] = field(default_factory=dict)
    standalone: bool | None = None
    dense: int | None = None
    size: tuple[str, int] | None = None
    inside: float | None = None

    @classmethod
    def of(cls, config: GrailConfig, layout: Layout, dense: int) -> Request:
        """The request of a resolved configuration for the model of ``layout``, whose blocks had ``dense`` parameters.

        Raises:
            BudgetError: a size that the model has already, or that is less than what lies outside its blocks.
        """
        kinds = {
            "mlp": config.ffn_sparsity,
            "heads": config.head_sparsity,
            "conv": config.channel_sparsity,
            "expert-channels": config.expert_ffn_sparsity,
            "experts": config.expert_sparsity if config.experts is None else _share_gone(config.experts, layout),
        }
        named = {kind: value for kind, value in kinds.items() if value is not None}
        sparsity, size = config.sparsity, None
        if config.target_parameters is not None:
            size = ("target_parameters", config.target_parameters)
            gone = _gone(*size, layout.total_parameters, layout.block_parameters)
            sparsity = 1 - (layout.block_parameters - gone) / dense
        elif config.target_bytes is not None:
            size = ("target_bytes", config.target_bytes)
            sparsity = _gone(*size, layout.total_bytes, layout.block_bytes) / layout.block_bytes
        return cls(sparsity, named, config.standalone, dense, size, config.head_dim_sparsity)

    @property
    def idle(self) -> bool:
        """Whether no unit goes: a pattern alone was asked for."""
        return self.sparsity is None and not self.kinds and self.inside is None

    @property
    def words(self) -> str:
        """What was asked for, as the subject of a sentence."""
        if self.size is None:
            return f"A sparsity of {self.sparsity:g}"
        return f"{self.size[0]}={self.size[1]:,} (a sparsity of {self.sparsity:.4f})"

    def outside(self, layout: Layout) -> int | None:
        """Parameters or bytes outside the blocks, where a size of the whole model was asked for; else ``None``."""
        if self.size is None:
            return None
        counted = self.size[0] == "target_bytes"
        return layout.total_bytes - layout.block_bytes if counted else layout.total_parameters - layout.block_parameters

    def asked(self, layout: Layout) -> float:
        """Parameters of the blocks of ``layout`` that have to go."""
        dense = layout.block_parameters if self.dense is None else self.dense
        return layout.block_parameters - (1 - (self.sparsity or 0.0)) * dense


def _share_gone(experts: int, layout: Layout) -> float:
    """Which fraction of the experts goes when every layer keeps so many.

    Raises:
        BudgetError: the model has no experts, or no more than that; or the router chooses more for a token.
    """
    groups = [group for group in layout.groups if group.kind == "experts"]
    if not groups:
        why = next((f" {s.spec.impossible['experts']}" for s in layout.stacks if "experts" in s.spec.impossible), "")
        raise BudgetError(
            f"--experts {experts}: this model has no experts that its map could take away.{why} Leave it out; "
            "`grail inspect` shows what can go."
        )
    units, chosen = groups[0].units, groups[0].chosen
    if not chosen <= experts < units:
        raise BudgetError(
            f"--experts {experts}: every layer has {units} experts, of which a token goes through {chosen}. Ask for "
            f"{chosen} to {units - 1}."
        )
    return 1 - experts / units


def _gone(name: str, target: int, total: int, blocks: int) -> int:
    """How much has to go for ``total`` to become ``target``, of which ``blocks`` are inside the repeated blocks.

    Raises:
        BudgetError: nothing, or more than the blocks have.
    """
    what = name.removeprefix("target_")
    if target >= total:
        raise BudgetError(f"{name}={target:,} is no less than the {total:,} {what} that the model has. Ask for fewer.")
    if target <= total - blocks:
        raise BudgetError(
            f"{name}={target:,} cannot be reached: {total - blocks:,} of the model's {total:,} {what} lie outside the "
            "repeated blocks, where nothing goes. Ask for more than that."
        )
    return total - target
