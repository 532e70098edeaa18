"""Pruning attention heads by name, as the ``prune_heads`` of transformers 4 did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from optimum_grail.allocations.uniform import Uniform
from optimum_grail.compensators.none import NoCompensation
from optimum_grail.config.config import GrailConfig
from optimum_grail.core.contracts import Selector
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import Plan
from optimum_grail.core.problem import GroupProblem, Selection
from optimum_grail.core.reduction import Reduction
from optimum_grail.errors import ArchitectureError, ConfigError
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.models.intact import kept_intact_
from optimum_grail.models.layout import Layout
from optimum_grail.models.residence import resident
from optimum_grail.pipeline.preparing import prepare_
from optimum_grail.pipeline.setup import Setup, Unwatched
from optimum_grail.streams.memory import released_at_once
from optimum_grail.widths.allocate import Widths

if TYPE_CHECKING:
    from optimum_grail.data.foreign import DataSource, Processor, Tokenizer


@dataclass(frozen=True)
class Named(Selector):
    """Keeps what is named.

    Args:
        kept: units that stay, ascending, by group; groups that are not named stay whole.
    """

    kept: Mapping[str, Sequence[int]]

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Those of ``problem``."""
        return Selection(Reduction.prune(problem.units, torch.tensor(self.kept[problem.name], dtype=torch.int64)))


def prune_heads_(
    model: nn.Module,
    heads: Mapping[int, Sequence[int]],
    calibration_dataset: DataSource | None = None,
    *,
    stack: str | None = None,
    tokenizer: Tokenizer | None = None,
    processor: Processor | None = None,
    **config: Any,
) -> Plan:
    """Take exactly these attention heads out of a model, in place, and make its config describe the rest.

    With calibration data the layers after the heads are refitted, so that they make up for what went; without any, the
    rest of the model stays as it is, and the result is that of setting the heads' outputs to zero.

    Args:
        model: a transformers model with a map, in memory; compressed before or not.
        heads: layer to query heads, both counted from 0 in the model as it is now. Query heads that share a key-value
            head go together.
        calibration_dataset: in any form that :meth:`GrailCompressor.compress` takes.
        stack: which part of a model of several (``"text_model"``), as ``optimum-cli grail inspect`` names it; by
            default the only one that has heads.
        tokenizer, processor: for calibration data of text, or images.
        config: fields of :class:`GrailConfig` about data and compensation, such as ``num_samples`` and ``compensator``.

    Returns:
        what was done.

    Raises:
        ConfigError: a layer or head that the model does not have, or some of the query heads that go together only.
        ArchitectureError: no heads of the model can go.
        GrailError: bad data or configuration.
    """
    setup = Setup(GrailConfig.from_dict(config).resolved(), None, tokenizer, processor)
    with released_at_once(False), kept_intact_(model) as undo:
        ready = prepare_(model, setup, undo)
        named = _units(ready.layout, heads, stack)
        widths = {**ready.layout.widths, **{name: len(units) for name, units in named.items()}}
        _refuse_uneven(ready.layout, widths)
        data = None if calibration_dataset is None else ready.calibrate_(calibration_dataset, Unwatched())
        methods = Methods(Named(named), NoCompensation(), Uniform())
        if data is not None:
            methods = replace(setup.methods, selector=Named(named))
        batches = () if data is None else data.batches
        run = FitRun(model, ready.layout, methods, widths, batches, setup.config.seed, setup.progress)
        plan = replace(run, around=lambda path: resident(model, path)).run_()
        ready.finish_(Widths(widths))
        return plan


def _units(layout: Layout, heads: Mapping[int, Sequence[int]], stack: str | None) -> dict[str, list[int]]:
    """Units that stay, by group, of the groups that lose some."""
    groups = _groups(layout, stack)
    kept = {}
    for layer, gone in heads.items():
        if not 0 <= layer < len(groups) or groups[layer] is None:
            most = [index for index, group in enumerate(groups) if group is not None]
            raise ConfigError(f"There are no heads in layer {layer!r}; expected one of {most}.")
        group = groups[layer]
        if group is not None and (left := _left(group, layer, gone)) is not None:
            kept[group.name] = left
    return kept


def _groups(layout: Layout, stack: str | None) -> list[ChannelGroup | None]:
    """The heads of every block of the stack; ``None`` where it has none."""
    found = {
        item.name: [next((g for g in layout.of_block(path) if g.kind == "heads"), None) for path in item.blocks]
        for item in layout.stacks
    }
    able = {name: groups for name, groups in found.items() if any(groups)}
    if not able:
        reasons = [item.spec.impossible["heads"] for item in layout.stacks if "heads" in item.spec.impossible]
        raise ArchitectureError(" ".join(["No heads of this model can go.", *reasons]))
    if stack is None and len(able) > 1:
        raise ConfigError(f"Several parts have heads: {', '.join(able)}. Name one with stack=….")
    if stack is not None and stack not in able:
        raise ConfigError(f"stack is {stack!r}; expected one of {', '.join(able)}.")
    return able[stack if stack is not None else next(iter(able))]


def _left(group: ChannelGroup, layer: int, gone: Sequence[int]) -> list[int] | None:
    """Units of ``group`` that stay; ``None`` where nothing goes."""
    each, named = group.fields[0][1], set(gone)
    if wrong := sorted(named - set(range(group.units * each))):
        raise ConfigError(f"Layer {layer} has the heads 0 to {group.units * each - 1}; it has no {wrong}.")
    units = {head // each for head in named}
    missing = sorted({unit * each + place for unit in units for place in range(each)} - named)
    if missing:
        raise ConfigError(
            f"In layer {layer} {each} query heads each share a key-value head and go together: name {missing} too, or "
            "none of theirs."
        )
    return [unit for unit in range(group.units) if unit not in units] if units else None


def _refuse_uneven(layout: Layout, widths: Mapping[str, int]) -> None:
    """Refuse, before anything changes, what cannot be stored or run."""
    for group in layout.groups:
        if widths[group.name] < group.fewest:
            raise ConfigError(f"{group.name!r} has to keep {group.fewest} of its {group.units} heads.")
    bonds: dict[str, set[int]] = {}
    for group in layout.groups:
        if group.uniform:
            bonds.setdefault(group.uniform, set()).add(widths[group.name])
    if any(len(counts) > 1 for counts in bonds.values()):
        raise ConfigError("The code of this family reads one number of heads for all layers: take as many from each.")
