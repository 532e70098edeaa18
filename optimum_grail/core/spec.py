"""The declarative language of architecture maps: one :class:`ArchitectureSpec` per family, pure data.

Paths are dotted and relative to the block. ``*`` stands for one index level in ``blocks``. See
``optimum_grail/architectures/llama.py`` for a complete example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from optimum_grail.core.conditions import Conditions as Conditions
from optimum_grail.core.conditions import StockAccepts as StockAccepts
from optimum_grail.core.conditions import always as always
from optimum_grail.core.conditions import never as never
from optimum_grail.core.expert_spec import ExpertChannels as ExpertChannels
from optimum_grail.core.expert_spec import Experts as Experts
from optimum_grail.core.expert_spec import SharedChannels as SharedChannels
from optimum_grail.core.groups import HeadArgument, Stream


@dataclass(frozen=True)
class Strip:
    """Some rows of a projection that holds several producers.

    Args:
        module: path of the projection.
        part: which of its parts, from 0.
        of: how many parts it has. Equally long ones; those of attention as long as their heads need.
        interleaved: the parts lie side by side for every unit (GPT-NeoX: query, key and value of head 0, then of head
            1) instead of one behind the other. All parts then belong to one group.
    """

    module: str
    part: int
    of: int
    interleaved: bool = False


Rows = str | Strip
"""Where a producer is: the path of a module, all of whose rows are meant, or a part of one."""


@dataclass(frozen=True)
class Mlp:
    """A feed-forward pair: rows of every ``produce`` module feed, channel by channel, the columns of ``consume``.

    Args:
        produce: the producers.
        consume: the consumer.
        stream: where the residual sum after the consumer is seen.
        field: config field that says the width.
        default: what the stock class makes of a config whose ``field`` is ``None`` (GPT-2's ``n_inner``).
        attributes: paths of integer attributes equal to the width; a path through a module's ``config`` gives that
            module a copy of the config for as long as layers differ.
        accepts: which widths the stock config can express in ``field``.
        bias_flag: config field that gives all these linears a bias.
        channelwise: modules between producers and consumer that hold something per channel: BatchNorm, a depthwise
            convolution, a norm over the whole width (see ``mixes``).
        mixes: a norm among ``channelwise`` mixes all units, so that dropping some changes what the others feel and
            dropping is no longer the same as setting to zero; such a group is refused unless the map says ``True``.
        factor: path of the parameter ``[O]`` (layer scale) or of the number that the consumer's output is multiplied by
            before it joins the residual sum, so that what is missing in the sum is divided by it; ``None``, or absent
            in the block: no factor. A norm after the consumer is none, because it divides by the token's own size too:
            let ``stream`` be ``None`` there.
        uniform: the forward reads the shared config, so that only one width for all layers can be saved, and only one
            that the stock config can express.
        name: of the group within its block.
        stage: order within the block.
        block_class: only in blocks of this class (name), for families with several kinds of block; ``None``: in every
            block.
        within: only in blocks of this pattern of :attr:`ArchitectureSpec.blocks`; ``None``: of every pattern.
        when: only in models whose config has these values, for families whose forward depends on them. Of declarations
            of one ``name`` at most one may hold in a block.
        holds: only in blocks that have a module at this path, for families some of whose layers are mixtures of
            experts; ``None``: in every block.
    """

    produce: tuple[Rows, ...]
    consume: str
    stream: Stream
    field: str = "intermediate_size"
    attributes: tuple[str, ...] = ()
    accepts: StockAccepts = always
    bias_flag: str | None = None
    name: str = "mlp"
    stage: int = 1
    block_class: str | None = None
    default: Callable[[Any], int] | None = None
    channelwise: tuple[str, ...] = ()
    mixes: bool = False
    factor: str | None = None
    uniform: bool = False
    within: str | None = None
    when: Conditions = ()
    holds: str | None = None


@dataclass(frozen=True)
class Heads:
    """Attention heads; the unit is a key-value head with the query heads that share it, or a query head (``shared``).

    What is not told here is told at :class:`Mlp`.

    Args:
        query: rows that make queries.
        key: rows that make keys.
        value: rows that make values.
        out: the consumer.
        head_dim: path of the block's attribute that holds elements per head (never assumed); its module is the one
            that attends, and it can lose all heads if it takes hidden states first and returns a pair, as attention in
            transformers does.
        attributes: path of an integer attribute and what it counts: ``"query"``, ``"key_value"`` (heads),
            ``"width"`` (elements entering ``out``) or ``"per_key"`` (query heads that share a key-value head).
        shared: config values that say that all query heads share one key-value head: it stays, and a query head is a
            unit. Empty: they always do; ``None``: never.
        query_field: config field that says the number of query heads. A name that the config lacks is a name in the
            per-layer table only (as :attr:`Mlp.field` too).
        key_value_field: config field that says the number of key-value heads, if there is one.
        pinned: config fields to write as they are on the module (path of the attribute), because the config class
            would otherwise derive them from the number of heads.
        channelwise: for example norms of queries and of keys over their whole width; a norm of each head by itself
            holds nothing per unit and needs no mention.
        also: modules whose rows go with the queries' heads, as wide as the queries: projections of positions onto the
            same heads. Those that a block lacks are left out.
        tables: path of a parameter and its axis that has one element per query head (a bias for every distance). Those
            that a block lacks are left out.
        arguments: what the attention is called with that holds a slice per query head, shared with other layers.
        rotary: path, from the sub-model that owns the config, of the module whose cosines and sines of all dimensions
            the blocks are called with as ``position_embeddings``. Dimension ``j`` of queries and keys is turned with
            dimension ``j`` plus half the head size; nothing else looks at single dimensions; logits are multiplied by
            the attention's ``scaling``, which is the root of one by the head size; and the config says ``head_dim`` and
            ``rope_parameters`` for all layers. ``None``: heads cannot shrink inside.
        rigid: why they cannot, the end of a sentence for users ("because ..."); empty: nobody has said.
    """

    query: Rows
    key: Rows
    value: Rows
    out: str
    stream: Stream
    head_dim: str
    attributes: tuple[tuple[str, str], ...] = ()
    query_field: str = "num_attention_heads"
    key_value_field: str | None = None
    shared: Conditions | None = None
    pinned: tuple[tuple[str, str], ...] = ()
    accepts: StockAccepts = always
    bias_flag: str | None = None
    name: str = "heads"
    stage: int = 0
    block_class: str | None = None
    channelwise: tuple[str, ...] = ()
    mixes: bool = False
    factor: str | None = None
    uniform: bool = False
    within: str | None = None
    when: Conditions = ()
    also: tuple[str, ...] = ()
    tables: tuple[tuple[str, int], ...] = ()
    arguments: tuple[HeadArgument, ...] = ()
    rotary: str | None = None
    rigid: str = ""
    holds: str | None = None


@dataclass(frozen=True)
class Conv:
    """Inner channels of a residual block: filters of ``produce``, columns of ``consume``.

    What is not told here is told at :class:`Mlp`.

    Args:
        consume_norm: BatchNorm right after the consumer, which takes the readout's bias.
    """

    produce: str
    consume: str
    stream: Stream
    channelwise: tuple[str, ...] = ()
    consume_norm: str | None = None
    name: str = "conv"
    stage: int = 0
    block_class: str | None = None
    mixes: bool = False
    factor: str | None = None
    within: str | None = None
    when: Conditions = ()
    holds: str | None = None


GroupSpec = Mlp | Heads | Conv | Experts | ExpertChannels | SharedChannels


@dataclass(frozen=True)
class ArchitectureSpec:
    """The map of one family.

    Args:
        model_types: values of ``config.model_type`` it serves.
        blocks: pattern(s) of the repeated blocks, relative to the sub-model that owns the config. The blocks of one
            pattern follow each other directly, each one's output being the next one's input; what is done between two
            patterns (embeddings, downsampling, cross-attention) runs as it is, and patterns come in the order in which
            the model runs them. A model may lack some of the patterns (an encoder used alone), but not all.
        chain: ``"pattern"``, or ``"container"`` where only blocks of one list follow each other directly, because
            something lies between the lists of one pattern (downsampling between stages).
        after: stacks that run before this one, by the path of their sub-model or its last part (``"encoder"``).
        groups: what shrinks within one block.
        example: builds a tiny random model (about 100 kB) that the contract tests run the map on.
        mask: name of the model input that marks real rows with 1 (padding rows are left out), or ``None``.
        masks: the same for patterns of ``blocks`` that have another one: pattern and name, or ``None``.
        main_input: ``"text"`` or ``"image"``: what one calibration sample is; ``"tensors"``: inputs as the model takes
            them, because nothing here makes them out of files (audio).
        inputs: makes the inputs that ``example`` is tried with, where its config does not describe them.
        depth_field: config field that says the number of blocks, so that whole blocks can go; ``None`` where none does.
        depth_lists: config lists with one entry per block, which lose those of the blocks that go.
        depth_when: blocks can go only in models whose config has these values.
        classifiers: paths from the root of linear layers that read what leaves the blocks (classifiers, projections);
            those that the model has are refitted last.
        impossible: what of the family cannot shrink, and why: kind of group (``"heads"``, ``"mlp"``, ``"conv"``,
            ``"experts"``, ``"expert-channels"``) to one sentence for users. Where a model of the family has groups of
            that kind all the same, nothing is said.
    """

    model_types: tuple[str, ...]
    blocks: tuple[str, ...]
    groups: tuple[GroupSpec, ...]
    example: Callable[[], nn.Module] | None = None
    mask: str | None = None
    main_input: str = "text"
    depth_field: str | None = None
    depth_lists: tuple[str, ...] = ("layer_types",)
    depth_when: Conditions = ()
    classifiers: tuple[str, ...] = ()
    chain: Literal["pattern", "container"] = "pattern"
    after: tuple[str, ...] = ()
    masks: tuple[tuple[str, str | None], ...] = ()
    inputs: Callable[[], Mapping[str, Tensor]] | None = None
    impossible: Mapping[str, str] = field(default_factory=dict)
