"""The linear layers after the blocks (classifier, projection), refitted last: what still drifts where the blocks end
is no longer corrected by any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup, Port
from optimum_grail.core.moments import Statistics
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.reduction import Reduction
from optimum_grail.data.batches import Batch
from optimum_grail.fit.methods import Methods
from optimum_grail.models.layout import Layout
from optimum_grail.models.residence import resident, tied_weights
from optimum_grail.models.surgery import apply_
from optimum_grail.streams.blocks import Batches, Streams
from optimum_grail.streams.calls import on_device
from optimum_grail.streams.collect import Collector
from optimum_grail.streams.hooks import hooked
from optimum_grail.streams.probe import Record
from optimum_grail.streams.problems import collector_for, problem_of
from optimum_grail.streams.tail import leaving


def classifiers_of(model: nn.Module, layout: Layout) -> list[ChannelGroup]:
    """The linear layers that the maps name and the model has, as groups without producers: nothing of them goes.

    One whose weight lives elsewhere too (tied) is left alone.
    """
    tied = tied_weights(model)  # offloaded weights do not show it
    elsewhere = {*tied, *tied.values()}
    homes: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        homes[id(parameter)] = homes.get(id(parameter), 0) + 1
    modules, found = dict(model.named_modules()), []
    for path in dict.fromkeys(path for stack in layout.stacks for path in stack.spec.classifiers):
        module = modules.get(path)
        if isinstance(module, nn.Linear) and homes[id(module.weight)] == 1 and f"{path}.weight" not in elsewhere:
            group = ChannelGroup(
                name=path,
                kind="classifier",
                units=module.in_features,
                producers=(),
                consumer=Port(path, "in"),
                block=path,
                layer="",
                owner="",
                stage=0,
                stream=None,
                tie=path,
                cost=module.out_features,
            )
            found.append(group)
    return found


@torch.no_grad()
def refit_classifiers_(
    model: nn.Module,
    layout: Layout,
    methods: Methods,
    batches: Sequence[Batch],
    streams: Mapping[str, Streams],
    seed: int,
) -> list[GroupPlan]:
    """Fit every classifier to what it put out in the dense model, given what it is fed now.

    Args:
        model: compressed; its classifiers change.
        layout: of the dense model.
        methods: with a compensator that refits what loses nothing.
        batches: calibration batches.
        streams: both streams as they leave the last block of each stack.
        seed: of the fit.

    Returns:
        what was done with each that saw enough rows, the readouts left out (the model has them).
    """
    groups = classifiers_of(model, layout)
    given = Batches.of(batches, layout.mask, "sources" in methods.needs)
    collectors = [collector_for(model, group, "held-out" in methods.needs, given.ranks) for group in groups]
    for index, batch in enumerate(batches):
        student = {name: stream.student[index] for name, stream in streams.items()}
        dense = {name: stream.dense[index] for name, stream in streams.items() if stream.dense is not None}
        seen, wanted = (_records(model, layout, groups, batch, hidden) for hidden in (student, dense))
        for collector in collectors:
            name = collector.group.name
            collector.add(seen[name], wanted[name], given.masks[index], given.subset(index))
    crossed = given.crossed
    enough = [collector for collector in collectors if _enough(collector, crossed)]
    return [_refit_(model, methods, each.group, each.statistics(crossed), seed) for each in enough]


def _enough(collector: Collector, crossed: bool) -> bool:
    """Whether there are as many rows to fit on as features. With fewer, a readout that repeats them exactly always
    exists, chance decides on the held-out rows, and accuracy was seen to fall as often as to rise."""
    rows = collector.counts()
    fitted = sum(rows.values()) - max(rows.values(), default=0) if crossed else rows.get(0, 0)
    return fitted >= collector.group.units


def _records(
    model: nn.Module, layout: Layout, groups: Sequence[ChannelGroup], batch: Batch, hidden: Mapping[str, Tensor]
) -> dict[str, Record]:
    """Input and output of every classifier when the blocks leave ``hidden`` behind."""
    records = {group.name: Record() for group in groups}

    def keep(name: str) -> Callable[..., None]:
        """A hook that records the classifier ``name``."""

        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            """Keep clones of input and output."""
            records[name] = Record(features=args[0].clone(), output=output.clone())

        return hook

    hooks = [(model.get_submodule(group.name), keep(group.name)) for group in groups]
    with hooked(after=hooks), leaving(model, layout.blocks, hidden):
        model(**on_device(model, batch))
    return records


def _refit_(model: nn.Module, methods: Methods, group: ChannelGroup, statistics: Statistics, seed: int) -> GroupPlan:
    whole = Reduction.keep_all(group.units)
    with resident(model, group.name):
        compensation = methods.compensator(problem_of(model, group, statistics, seed), whole)
        apply_(model, Plan([GroupPlan(group, whole, compensation.readout)]))
    return GroupPlan(group, whole, None, diagnostics=compensation.diagnostics)
