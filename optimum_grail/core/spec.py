"""The declarative language of architecture maps: one :class:`ArchitectureSpec` per family, pure data.

Paths are dotted and relative to the block. ``*`` stands for one index level in ``blocks``. See
``optimum_grail/architectures/llama.py`` for a complete example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from optimum_grail.core.groups import Stream

Accepts = Callable[[Any, Mapping[str, int]], bool]
"""``(config, new field values) -> bool``: whether the stock config class takes these values."""


def always(config: Any, values: Mapping[str, int]) -> bool:
    """The stock config takes any value."""
    return True


def never(config: Any, values: Mapping[str, int]) -> bool:
    """The stock config cannot say this width: it goes to the per-layer table."""
    return False


@dataclass(frozen=True)
class Mlp:
    """A feed-forward pair: rows of every ``produce`` module feed, channel by channel, the columns of ``consume``.

    ``attributes``: paths of integer attributes equal to the width. ``accepts`` says which widths the stock config can
    express in ``field``. ``bias_flag``: config field that gives all these linears a bias. ``block_class``: only in
    blocks of this class (name), for families with several kinds of block; ``None``: in every block.
    """

    produce: tuple[str, ...]
    consume: str
    stream: Stream
    field: str = "intermediate_size"
    attributes: tuple[str, ...] = ()
    accepts: Accepts = always
    bias_flag: str | None = None
    name: str = "mlp"
    stage: int = 1
    block_class: str | None = None


@dataclass(frozen=True)
class Heads:
    """Attention heads; the unit is a key-value head with the query heads that share it.

    ``head_dim``: path of the block's attribute that holds elements per head (never assumed); its module is the one that
    attends, and it can lose all heads if it takes hidden states first and returns a pair, as attention in transformers
    does. ``attributes``: path of an
    integer attribute and what it counts: ``"query"``, ``"key_value"`` (heads) or ``"width"`` (elements entering
    ``out``). ``pinned``: config fields to write as they are on the module (path of the attribute), because the config
    class would otherwise derive them from the number of heads. ``block_class``: see :class:`Mlp`.
    """

    query: str
    key: str
    value: str
    out: str
    stream: Stream
    head_dim: str
    attributes: tuple[tuple[str, str], ...] = ()
    query_field: str = "num_attention_heads"
    key_value_field: str | None = None
    pinned: tuple[tuple[str, str], ...] = ()
    accepts: Accepts = always
    bias_flag: str | None = None
    name: str = "heads"
    stage: int = 0
    block_class: str | None = None


@dataclass(frozen=True)
class Conv:
    """Inner channels of a residual block: filters of ``produce`` and its BatchNorm ``norm``, columns of ``consume``.

    ``consume_norm``: BatchNorm right behind the consumer, which takes the readout's bias. ``block_class``: see
    :class:`Mlp`.
    """

    produce: str
    consume: str
    stream: Stream
    norm: str | None = None
    consume_norm: str | None = None
    name: str = "conv"
    stage: int = 0
    block_class: str | None = None


GroupSpec = Mlp | Heads | Conv


@dataclass(frozen=True)
class ArchitectureSpec:
    """The map of one family.

    Args:
        model_types: values of ``config.model_type`` it serves.
        blocks: pattern(s) of the repeated blocks, relative to the sub-model that owns the config.
        groups: what shrinks within one block.
        example: builds a tiny random model (about 100 kB) that the contract tests run the map on.
        mask: name of the model input that marks real rows with 1 (padding rows are left out), or ``None``.
        main_input: ``"text"`` or ``"image"``: what one calibration sample is.
        depth_field: config field that says the number of blocks, so that whole blocks can go; ``None`` where none does.
        classifiers: paths from the root of linear layers that read what leaves the blocks (classifiers, projections);
            those that the model has are refitted last.
    """

    model_types: tuple[str, ...]
    blocks: tuple[str, ...]
    groups: tuple[GroupSpec, ...]
    example: Callable[[], nn.Module] | None = None
    mask: str | None = None
    main_input: str = "text"
    depth_field: str | None = None
    classifiers: tuple[str, ...] = ()
