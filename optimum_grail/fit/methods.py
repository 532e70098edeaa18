"""The methods of a run, and what they ask of the calibration together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from optimum_grail.config.config import GrailConfig
from optimum_grail.core.contracts import Allocation, Compensator, Refit, Selector
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.problem import Need
from optimum_grail.errors import ConfigError
from optimum_grail.refits.none import NoRefit
from optimum_grail.streams.probe import Wanted
from optimum_grail.survey.survey import signals_of

GRADIENTS = frozenset({"mask-gradients", "block-gradients"})
INSIDE = ("expert-channels", "shared-channels")
LAST = {"experts": 1, "expert-channels": 2}
WithinBlock = Literal["sequential", "joint"]


@dataclass(frozen=True)
class Methods:
    """Selector, compensator, refit and allocation of a run.

    Args:
        selector: chooses units.
        compensator: computes readouts.
        allocation: shares the budget out.
        within_block: ``"sequential"``: a block's groups one stage after the other; ``"joint"``: all from one pass
            over the uncompressed block, as the GRAIL authors do.
        refit: changes the producers that are left.
        inside: whether heads lose dimensions inside, which asks for data whatever the others do.
        expert_selector: chooses experts of a mixture; ``None``: all of them stay.
        expert_channels: whether channels inside experts go, which the selector chooses.
    """

    selector: Selector
    compensator: Compensator
    allocation: Allocation
    within_block: WithinBlock = "sequential"
    refit: Refit = field(default_factory=NoRefit)
    inside: bool = False
    expert_selector: Selector | None = None
    expert_channels: bool = False

    def __post_init__(self) -> None:
        if "routing" in self.selector.needs:
            raise ConfigError(
                "The selector judges whole experts of a mixture, by how the router chooses among them; heads and "
                "channels need another. Name it in expert_selector (--expert-selector)."
            )
        if self.expert_channels and (self.selector.tuning_rounds or self.selector.needs & GRADIENTS):
            raise ConfigError(
                f"{type(self.selector).__name__} judges channels by gradients, which are not measured inside experts "
                "(--expert-ffn-sparsity). Choose a selector that judges by second moments or weights, such as "
                "obs, osscar or wanda."
            )
        if self.refit.changes_producers and not self.two_streams:
            raise ConfigError(
                "A refit moves producers towards the dense model's stream, but the compensator does not look at it. "
                "Choose a target that does (--target residual) or another compensator, such as grail-plus."
            )

    @classmethod
    def of(cls, config: GrailConfig) -> Methods:
        """The methods of a resolved configuration.

        Raises:
            UnknownNameError: no method of that name.
            ConfigError: the method has no such option, or refuses its value; or it chooses experts only.
        """
        selector, compensator, allocation, refit = config.methods()
        inside = config.head_dim_sparsity is not None
        channels = config.expert_ffn_sparsity is not None
        chooser = config.expert_method()
        return cls(selector, compensator, allocation, config.within_block, refit, inside, chooser, channels)

    def rehearsed(self) -> Methods:
        """Cheaper ones that compare ways to share a budget: what refits gain hardly depends on that."""
        return replace(self, compensator=self.compensator.rehearsed(), refit=NoRefit())

    def stages(self, groups: Sequence[ChannelGroup]) -> list[list[ChannelGroup]]:
        """The groups of a block, those together that are measured in one pass; experts come last, by themselves, then
        the channels inside those that are left."""
        joint = self.within_block == "joint"
        stages = [(LAST.get(g.kind, 0), 0 if joint else g.stage) for g in groups]
        return [[g for g, own in zip(groups, stages, strict=True) if own == stage] for stage in sorted(set(stages))]

    @property
    def in_mixtures(self) -> frozenset[str]:
        """Kinds of groups inside mixtures of which units go."""
        asked = {"experts": self.expert_selector is not None, **dict.fromkeys(INSIDE, self.expert_channels)}
        return frozenset(kind for kind, goes in asked.items() if goes)

    @property
    def needs(self) -> frozenset[Need]:
        """Everything any of them asks for."""
        return self.fitted_needs | self.survey_needs

    @property
    def fitted_needs(self) -> frozenset[Need]:
        """What selectors, compensator, refit and heads that shrink inside ask for."""
        inside = frozenset({"gram"}) if self.inside else frozenset()
        experts = frozenset[Need]() if self.expert_selector is None else self.expert_selector.needs
        return self.selector.needs | self.compensator.needs | self.refit.needs | experts | inside

    @property
    def survey_needs(self) -> frozenset[Need]:
        """What the survey is to find out."""
        return self.allocation.needs | (frozenset({"rotation-pairs"}) if self.inside else frozenset())

    @property
    def needs_data(self) -> bool:
        """Whether calibration data has to be there at all."""
        return bool(self.needs)

    @property
    def reads_labels(self) -> bool:
        """Whether any of them asks for gradients of the model's loss."""
        signals = signals_of(self.survey_needs).values()
        return "mask-gradients" in self.needs or any(signal.labels for signal in signals)

    @property
    def fit_needs(self) -> frozenset[Need]:
        """What the fit itself has to measure: nothing for the allocation, and no gradients of the dense model."""
        return self.fitted_needs - {"mask-gradients"}

    @property
    def wanted(self) -> Wanted:
        """What is compared between the two streams: the consumer's output, or the residual stream after it."""
        dense = "dense" in self.compensator.needs
        return Wanted(output=dense, stream=not dense)

    @property
    def two_streams(self) -> bool:
        """Whether the dense model runs beside the student during the fit."""
        return bool(self.compensator.needs & {"drift", "dense"})

    @property
    def refits(self) -> bool:
        """Whether consumers that lose nothing are refitted to make up for the drift before them."""
        return self.compensator.refits_whole_groups and self.two_streams
