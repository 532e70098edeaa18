"""The contracts: what selectors, compensators, refits and allocations are, and what a run may ask of them."""

from __future__ import annotations

import math
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

from optimum_grail.core.budget import Budget, WidthClass
from optimum_grail.core.preset import Preset
from optimum_grail.core.problem import Compensation, GroupProblem, Need, Selection
from optimum_grail.core.producers import ProducerProblem, Refitted
from optimum_grail.core.reduction import Reduction
from optimum_grail.errors import BudgetError, ConfigError, shorten

NOTHING = "none"
POSITION = re.compile(r"-?\d{1,9}")
"""What reads like the position of a layer."""
Resource = Literal["parameters", "flops", "kv-cache", "latency", "bytes"]
"""What a budget may count."""
MEASURED: Mapping[Resource, Need] = MappingProxyType({"flops": "positions", "latency": "latency"})
"""What has to be measured before costs are known."""
Share = Callable[[Sequence[WidthClass], Budget], dict[str, int]]
"""``(classes, budget) -> units to keep in each group of each class, by class name``."""


class Method(ABC):
    """What the kinds of method have in common. A frozen dataclass whose fields are its options.

    Whatever a stage asks of a method is declared here or in the contract of its kind, with a default: an option of one
    method never means something to a stage because another method has an option of the same name.
    """

    paper: ClassVar[str | None] = None
    """BibTeX of the publication that the method comes from."""
    presets: ClassVar[tuple[Preset, ...]] = ()
    """Named combinations that this method stands at the centre of."""

    @abstractmethod
    def __call__(self, *args: Any) -> Any:
        """What the kind of method does; see its contract."""


class Selector(Method):
    """Chooses what stays of a group."""

    @property
    def needs(self) -> frozenset[Need]:
        """What the calibration has to gather; nothing by default."""
        return frozenset()

    @property
    def tuning_rounds(self) -> int:
        """Rounds of gradient steps that tune each block towards its former output after its units went; none."""
        return 0

    @abstractmethod
    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to ``keep`` units."""


class Compensator(Method):
    """Computes the consumer's new weight."""

    refits_whole_groups: ClassVar[bool] = False
    """Whether consumers of groups that lose nothing are refitted to the drift before them."""

    @property
    def needs(self) -> frozenset[Need]:
        """What the calibration has to gather; nothing by default."""
        return frozenset()

    @property
    def wants_bias(self) -> bool:
        """Whether consumers without a bias are given one first; no by default."""
        return False

    @property
    def solves(self) -> int:
        """How many solves a group takes, losses included, for the estimate of the cost; one by default."""
        return 1

    def rehearsed(self) -> Compensator:
        """A cheaper form for rehearsals, which only compare; itself by default."""
        return self

    @abstractmethod
    def __call__(self, problem: GroupProblem, reduction: Reduction) -> Compensation:
        """The readout of ``problem`` after ``reduction``."""


class Refit(Method):
    """Changes the producers of a group that has been compressed, so that the consumer reaches its target more nearly.

    What it finds is kept only where the consumer, refitted to it, does better on held-out rows than without it.
    """

    changes_producers: ClassVar[bool] = True
    """Whether it does anything: what it needs is then gathered once more for every group."""

    @property
    def needs(self) -> frozenset[Need]:
        """What the calibration has to gather; nothing by default."""
        return frozenset()

    @property
    def most_rows(self) -> int:
        """Most calibration rows, or images for convolutions, that it looks at; all by default."""
        return sys.maxsize

    @property
    def looks(self) -> float:
        """How often it looks at them, for the estimate of the cost; not at all by default."""
        return 0.0

    @property
    def products(self) -> float:
        """How often it multiplies all of them by all weights of a group, forwards and backwards; likewise."""
        return 0.0

    @abstractmethod
    def __call__(self, problem: ProducerProblem) -> Refitted:
        """Changes of the producers' weights, or none."""


@dataclass(frozen=True)
class Allocation(Method):
    """Shares a budget out; the fields here belong to every allocation.

    Args:
        round_to: FFN and convolution widths, and numbers of experts, are multiples of this.
        min_heads: fewest key-value heads that a layer keeps: a count, or a fraction of what it has, such as ``0.25``;
            with 0 its attention may go altogether (the checkpoint then needs the per-layer table).
        min_ffn: the same for FFN channels.
        min_channels: the same for convolution channels, of which one always stays.
        protect: what stays whole, joined by slashes: positions of layers in their stack, negative ones from the end
            (``0/1/-1`` are the first two and the last), and patterns of the last words of names of layers or groups
            (``heads``, ``layers.3``, ``layers.*.mlp``).
        budget: what the sparsity is a fraction of, summed over the blocks: ``"parameters"``, ``"flops"`` per sample,
            ``"kv-cache"`` (elements of keys and values per token), ``"latency"`` (time of the blocks on a calibration
            batch, measured at a few widths) or ``"bytes"`` of the parameters as they are saved.

    Raises:
        ConfigError: a value outside its range; the message names the option.
    """

    round_to: int = 1
    min_heads: int | float = 1
    min_ffn: int | float = 1
    min_channels: int | float = 1
    protect: str = NOTHING
    budget: Resource = "parameters"
    tied: ClassVar[bool] = False
    """Whether all layers of a kind get one width."""

    def __post_init__(self) -> None:
        if not isinstance(self.round_to, int) or isinstance(self.round_to, bool) or self.round_to < 1:
            raise ConfigError(f"round_to is {self.round_to!r}; expected a whole number of at least 1, for example 64.")
        floors = {"min_heads": self.min_heads, "min_ffn": self.min_ffn, "min_channels": self.min_channels}
        for name, value in floors.items():
            _check_floor(name, value)
        if self.budget not in get_args(Resource):
            raise ConfigError(f"budget is {self.budget!r}; expected {', '.join(get_args(Resource))}.")
        if not all(word.strip() for word in str(self.protect).split("/")):
            raise ConfigError(
                f"protect is {shorten(self.protect)}; expected 'none', or positions of layers and patterns of names "
                "joined by slashes, for example 0/1/-1."
            )

    @property
    def needs(self) -> frozenset[Need]:
        """Names of the signals that the survey has to measure on the dense model: what costs are computed from. A
        method that needs more adds to these."""
        return frozenset({MEASURED[self.budget]} if self.budget in MEASURED else ())

    @property
    def drops_layers(self) -> bool:
        """Whether whole layers may go."""
        return False

    @abstractmethod
    def __call__(self, classes: Sequence[WidthClass], budget: Budget) -> dict[str, int]:
        """Units to keep in each group of each class, by class name.

        Raises:
            BudgetError: the budget cannot be reached.
        """

    def rivals(self) -> Sequence[Share]:
        """Other ways to share, which a rehearsal compares with this one where error curves were measured."""
        return ()

    def dropped(self, influence: Mapping[str, float], sizes: Mapping[str, float], asked: float) -> tuple[str, ...]:
        """Blocks or sub-blocks that go altogether before anything is shared out; none by default.

        Args:
            influence: of each block that may go, by path, or of each sub-block, by its group's name, if the method asks
                for that; in the order of the model.
            sizes: what each of them costs.
            asked: how much has to go.
        """
        return ()

    def least(self, kind: str, units: int) -> int:
        """Fewest units that a group of ``kind`` with ``units`` units may keep."""
        floor = {"heads": self.min_heads, "mlp": self.min_ffn, "expert-channels": self.min_ffn, "experts": 1}.get(
            kind, self.min_channels
        )
        return min(math.ceil(floor * units) if isinstance(floor, float) else floor, units)

    def protected(self, layers: int) -> frozenset[int]:
        """Positions of the layers that stay whole in a stack of ``layers`` layers.

        Raises:
            BudgetError: a position is outside the stack.
        """
        positions = [int(word) for word in self._protected if POSITION.fullmatch(word)]
        for position in positions:
            if not -layers <= position < layers:
                raise BudgetError(
                    f"protect names layer {position}, but a stack has {layers}; expected {-layers} to {layers - 1}."
                )
        return frozenset(position % layers for position in positions)

    @property
    def patterns(self) -> tuple[str, ...]:
        """Patterns of names of what stays whole."""
        return tuple(word for word in self._protected if not POSITION.fullmatch(word))

    @property
    def _protected(self) -> tuple[str, ...]:
        return () if self.protect == NOTHING else tuple(word.strip() for word in self.protect.split("/"))


def _check_floor(name: str, value: int | float) -> None:
    count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not count and not (isinstance(value, float) and 0 < value <= 1):
        raise ConfigError(f"{name} is {value!r}; expected a count or a fraction up to 1, such as 0.25.")
