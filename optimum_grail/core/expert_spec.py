"""What the map language says of mixtures of experts; a part of :mod:`optimum_grail.core.spec`."""

from __future__ import annotations

from dataclasses import dataclass

from optimum_grail.core.conditions import Conditions, StockAccepts, always
from optimum_grail.core.groups import AT_OUTPUT, Stream


@dataclass(frozen=True)
class Experts:
    """Experts among which a router chooses for every token; the unit is a whole expert, with its row of the router.

    What is not told here is told at :class:`optimum_grail.core.spec.Mlp`. All layers keep equally many, so that the
    stock config can say it.

    Args:
        router: path of the module that scores experts; whatever it holds has one row or element per expert.
        bank: path of the module that holds all experts, one behind the other along the first axis of each of its
            parameters, as transformers does: ``gate_up_proj`` or ``up_proj``, and ``down_proj``.
        chosen: path of the integer attribute that says how many experts a token goes through.
        attributes: paths of integer attributes equal to the number of experts.
        beside: path of a parameter or buffer outside the router, and its axis that has one element per expert: what
            corrects its choice.
        mixes: always ``True``: where some go, tokens are routed anew and others feel it.
    """

    router: str
    bank: str
    chosen: str
    stream: Stream = AT_OUTPUT
    field: str = "num_experts"
    attributes: tuple[str, ...] = ()
    accepts: StockAccepts = always
    factor: str | None = None
    name: str = "experts"
    stage: int = 2
    block_class: str | None = None
    within: str | None = None
    when: Conditions = ()
    holds: str | None = None
    beside: tuple[tuple[str, int], ...] = ()
    channelwise: tuple[str, ...] = ()
    mixes: bool = True
    uniform: bool = True

    @property
    def produce(self) -> tuple[str, ...]:
        """What has a row per expert."""
        return (self.router,)

    @property
    def consume(self) -> str:
        """What puts out the sum over experts."""
        return self.bank


@dataclass(frozen=True)
class SharedChannels:
    """Channels of the experts that all tokens pass, where one number of the config says how wide these are and how wide
    those of :class:`ExpertChannels`: they shrink together, or not at all.

    What is not told here is told there and at :class:`optimum_grail.core.spec.Mlp`.

    Args:
        count: config field that says how many such experts there are; one module holds all of their channels, of which
            a unit is as many, side by side.
        bond: name of the declaration of the routed experts' channels.
    """

    produce: tuple[str, ...]
    consume: str
    count: str
    attributes: tuple[str, ...]
    stream: Stream = AT_OUTPUT
    field: str = "moe_intermediate_size"
    bond: str = "expert_channels"
    accepts: StockAccepts = always
    bias_flag: str | None = None
    factor: str | None = None
    name: str = "shared_channels"
    stage: int = 4
    block_class: str | None = None
    within: str | None = None
    when: Conditions = ()
    holds: str | None = None
    channelwise: tuple[str, ...] = ()
    mixes: bool = False
    uniform: bool = True


@dataclass(frozen=True)
class ExpertChannels:
    """Channels inside the experts of :class:`Experts`: all of a layer have as many, each its own ones.

    What is not told here is told at :class:`Experts` and at :class:`optimum_grail.core.spec.Mlp`.

    Args:
        field: config field that says how many channels each expert has.
        attributes: paths of integer attributes equal to that.
        mixes: always ``False``: dropping a channel is the same as setting it to zero.
    """

    bank: str
    chosen: str
    attributes: tuple[str, ...]
    stream: Stream = AT_OUTPUT
    field: str = "moe_intermediate_size"
    accepts: StockAccepts = always
    factor: str | None = None
    name: str = "expert_channels"
    stage: int = 3
    block_class: str | None = None
    within: str | None = None
    when: Conditions = ()
    holds: str | None = None
    channelwise: tuple[str, ...] = ()
    mixes: bool = False
    uniform: bool = True

    @property
    def produce(self) -> tuple[str, ...]:
        """Nothing beside the bank, which holds what makes its channels too."""
        return ()

    @property
    def consume(self) -> str:
        """What puts out the sum over experts."""
        return self.bank
