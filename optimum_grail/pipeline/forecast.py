"""What a run would do, told without doing it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from optimum_grail.core.groups import IN_MIXTURES, ChannelGroup
from optimum_grail.models.intact import kept_intact_
from optimum_grail.pipeline.estimate import Outlook
from optimum_grail.pipeline.preparing import prepare_
from optimum_grail.pipeline.setup import Setup, Unwatched, Watch
from optimum_grail.pipeline.stages import Prepared
from optimum_grail.survey.findings import Findings
from optimum_grail.widths.allocate import Widths
from optimum_grail.widths.request import NOUNS

if TYPE_CHECKING:
    from optimum_grail.data.foreign import DataSource

Range = tuple[int, int]
"""The least and the most of some layers."""


@dataclass(frozen=True)
class KindForecast:
    """What would become of one kind of width.

    Args:
        kind: ``"heads"``, ``"mlp"`` or ``"conv"``.
        layers: how many layers have such a width.
        width: heads (as the config counts them) or channels of a layer now.
        least: how few a layer may be left with.
        kept: how many a layer would keep; ``None`` where that depends on what is measured first.
    """

    kind: str
    layers: int
    width: Range
    least: Range
    kept: Range | None

    def line(self) -> str:
        """One line for people."""
        if self.kept is None:
            kept = f"what is measured decides how many of them stay, at least {_range(self.least)}"
        else:
            kept = f"{_range(self.kept)} would stay"
        return f"{NOUNS.get(self.kind, self.kind)}: {_range(self.width)} in each of {self.layers} layers; {kept}"


@dataclass(frozen=True)
class Forecast:
    """What a run would do.

    Args:
        parameters: of the whole model now.
        block_parameters: inside the repeated blocks now.
        block_parameters_after: afterwards; ``None`` where that depends on what is measured first.
        reachable: fraction of the blocks' parameters that can go at most; ``None`` where that depends on it, too.
        kinds: what would become of every kind of width.
        outlook: time and memory; ``None`` for data-free methods, which need a moment only.
        notes: what the user should know.
    """

    parameters: int
    block_parameters: int
    block_parameters_after: int | None
    reachable: float | None
    kinds: tuple[KindForecast, ...]
    outlook: Outlook | None
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The forecast for people."""
        lines = [f"{self.block_parameters:,} of {self.parameters:,} parameters are in the repeated blocks"]
        if self.block_parameters_after is not None:
            gone = 1 - self.block_parameters_after / self.block_parameters
            lines.append(f"{self.block_parameters_after:,} of them would stay: {gone:.1%} less")
        if self.reachable is not None:
            lines.append(f"at most {self.reachable:.1%} of them can go with this request's limits")
        lines += [kind.line() for kind in self.kinds]
        lines.append("Needs no data and a moment." if self.outlook is None else self.outlook.line())
        return [*lines, *(f"Warning: {note}" for note in self.notes)]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        cost = self.outlook and {
            "seconds": self.outlook.cost.seconds,
            "memory": self.outlook.cost.memory,
            "disk": self.outlook.cost.disk,
            "samples": self.outlook.samples,
            "tokens": self.outlook.tokens,
        }
        sizes = {name: value for name, value in vars(self).items() if name not in ("kinds", "outlook", "notes")}
        return {**sizes, "kinds": [asdict(kind) for kind in self.kinds], "needs": cost, "notes": list(self.notes)}


def forecast(model: nn.Module, setup: Setup, dataset: DataSource | None = None, watch: Watch | None = None) -> Forecast:
    """Tell what :func:`optimum_grail.pipeline.run.compress_` would do with the same arguments, and leave it at that.

    Costs one forward pass of one sample. Data is read only where its size is not known before; no text is written.

    Raises:
        GrailError: as a run, for everything that is known before anything is measured.
    """
    with kept_intact_(model, always=True) as undo:
        ready = prepare_(model, setup, undo)
        outlook = ready.outlook_(dataset, watch or Unwatched())
        measured = setup.methods.allocation.needs and not (set(ready.request[0].kinds) or {""}) <= IN_MIXTURES
        widths = None if measured else ready.allocate(None, Findings())
        least = {name: item.widths[0] for item in ready.classes for name in item.groups}
        return Forecast(
            parameters=ready.before.parameters,
            block_parameters=ready.before.blocks,
            block_parameters_after=None if widths is None else _left(ready, widths),
            reachable=ready.layout.removed_parameters(least) / ready.before.blocks if least else None,
            kinds=tuple(_kinds(ready, least, widths)),
            outlook=outlook,
            notes=(*ready.journal.notes, *(widths.notes if widths else ())),
        )


def _left(ready: Prepared, widths: Widths) -> int:
    return ready.layout.block_parameters - ready.layout.removed_parameters(widths.kept)


def _kinds(ready: Prepared, least: dict[str, int], widths: Widths | None) -> Iterable[KindForecast]:
    groups = [group for group in ready.layout.groups if group.units and (group.name in least or not least)]
    for kind in dict.fromkeys(group.kind for group in groups):
        alike = [group for group in groups if group.kind == kind]
        yield KindForecast(
            kind=str(kind),
            layers=len(alike),
            width=_span(alike, [group.units for group in alike]),
            least=_span(alike, [least.get(group.name, group.fewest) for group in alike]),
            kept=None if widths is None else _span(alike, [widths.kept[group.name] for group in alike]),
        )


def _span(groups: Sequence[ChannelGroup], units: Sequence[int]) -> Range:
    """Least and most, in what the config counts: query heads where a unit is a key-value head with all of its own."""
    counts = [n * max((each for _, each in group.fields), default=1) for group, n in zip(groups, units, strict=True)]
    return min(counts), max(counts)


def _range(found: Range) -> str:
    return f"{found[0]:,}" if found[0] == found[1] else f"{found[0]:,} to {found[1]:,}"
