"""What a run will cost, told before it starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from optimum_grail.data.batches import PROBE_FRACTION, Batch, CalibrationData
from optimum_grail.fit.methods import Methods
from optimum_grail.fit.refitting import REFITTABLE
from optimum_grail.fit.rehearsal import REHEARSED_FRACTION
from optimum_grail.models.layout import Layout
from optimum_grail.models.matrix import rows as rows_of
from optimum_grail.models.residence import is_offloaded
from optimum_grail.pipeline.footprint import bytes_of, features_of, statistics_of, visiting
from optimum_grail.signals import Signal, Work
from optimum_grail.streams.calls import on_device
from optimum_grail.streams.language_head import COPIES, LOGITS_BYTES, run_blocks
from optimum_grail.streams.pace import Counted, Pace, counting, pace_of
from optimum_grail.survey.survey import cost_of, memory_of, signals_of

STUDENT_PASSES = 1.5
"""Student forwards per block: attention for its statistics, the rest for the FFN's, and the FFN again to move on."""
ELIMINATION = 3
"""Solves that an elimination is worth."""
WRITING = 1.5
"""Passes of a sample that writing it, token by token, takes."""
STEP_CALLS = 40
"""Operations on little data that an elimination makes for every unit that goes."""
ACTIVATIONS = 80
"""Bytes per row of a batch and feature of the widest group that a block at work leaves with the C library."""
ROWS_PER_FEATURE = 4
"""Calibration rows that a fit wants for every feature."""


@dataclass(frozen=True)
class Estimate:
    """Cost of a run beyond the loaded model.

    Args:
        seconds: expected wall time of survey and fit, and of what :meth:`beside` adds.
        memory: bytes of streams (unless in files), and of one block at work with its statistics or of logits, whichever
            is more; where weights stay on disk, of the block and of the largest other module as well.
        forward_flops: floating point operations of one pass over the calibration data through all blocks.
        gram_flops: of all Gram products, once.
        disk: bytes of streams that are kept in files, and of compressed weights that leave memory.
        rows, features: calibration rows that the widest group sees, and its features.
        sample: seconds of one sample's pass through the whole model.
        logits: bytes of ``memory`` that are there for logits alone, which are float32 always.
        streams: bytes of disk that the streams would take.
        movable: bytes of ``memory`` that would be saved by that.
        offloaded: whether weights stay on disk.
    """

    seconds: float
    memory: int
    forward_flops: float
    gram_flops: float
    disk: int = 0
    rows: int = 0
    features: int = 0
    sample: float = 0.0
    logits: int = 0
    streams: int = 0
    movable: int = 0
    offloaded: bool = False

    def beside(self, written: int, watched: float) -> Estimate:
        """With what goes on before and after.

        Args:
            written: samples that the model writes itself.
            watched: seconds of what is measured, see :class:`optimum_grail.pipeline.setup.Watch`.
        """
        return replace(self, seconds=self.seconds + WRITING * written * self.sample + watched)

    def few_rows(self) -> str | None:
        """What to say if there are too few rows for a fit to rest on; ``None`` if there are enough."""
        if self.rows >= ROWS_PER_FEATURE * self.features:
            return None
        return (
            f"The widest layer has {self.features:,} features and sees {self.rows:,} calibration rows, fewer than "
            f"{ROWS_PER_FEATURE} for each: what is fitted on so few follows chance. Take more samples (--num-samples) "
            "or tokens (--seqlen)."
        )

    def line(self, samples: int, tokens: int) -> str:
        """One line for people."""
        data = f"{samples:,} samples" + (f", {tokens:,} tokens" if tokens else "")
        disk = f" and {size_of(self.disk)} of disk" if self.disk else ""
        memory = f"about {size_of(self.memory)} of memory" + ("" if self.offloaded else " beyond the model")
        needs = f"{_span(self.seconds)} and {memory}{disk}" + (", weights stay on disk" if self.offloaded else "")
        return f"Needs {needs} ({data})."

    def in_files(self) -> Estimate:
        """The same with the streams in files."""
        return replace(self, memory=self.memory - self.movable, disk=self.disk + self.streams)


@dataclass(frozen=True)
class Outlook:
    """What a run will need.

    Args:
        cost: time and memory.
        samples: calibration samples.
        tokens: of text, without padding.
        data: the calibration data, where it had to be read for this.
    """

    cost: Estimate
    samples: int
    tokens: int
    data: CalibrationData | None = None

    def line(self) -> str:
        """One line for people."""
        return self.cost.line(self.samples, self.tokens)


def _span(seconds: float) -> str:
    if seconds < 2:
        return "a few seconds"  # setting up takes longer than the arithmetic that was counted
    return f"about {seconds:.0f} s" if seconds < 120 else f"about {seconds / 60:.0f} min"


def size_of(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{max(count / 2**20, 1):.0f} MiB"


@torch.no_grad()
def estimate(
    model: nn.Module,
    layout: Layout,
    methods: Methods,
    batches: Sequence[Batch],
    processes: int = 1,
) -> Estimate:
    """Count one sample's operations with hooks, measure this machine's pace, multiply.

    Args:
        model: in eval mode, in the dtype that it will compute in.
        layout: its stacks and groups.
        methods: of the run.
        batches: calibration data, or an outline of it; so many ``processes`` share it, and one of them is told of.

    Returns:
        the estimate with streams in memory.
    """
    samples = -(-sum(batch.size for batch in batches) // processes)
    with counting(model, layout) as counted:
        run_blocks(model, on_device(model, batches[0].head()))
    pace, load = pace_of(model, layout, batches[0]), _Load.of(model, layout, counted, samples)
    signals = signals_of(methods.survey_needs).values()
    work = Work(
        forward=pace.blocks * samples,
        gram=load.gram / pace.products,
        solve=load.solve / pace.solves + load.steps * pace.call,
        groups=len(layout.groups),
        blocks=sum(len(stack.blocks) for stack in layout.stacks),
        batches=len(batches) if len(batches) > 1 else PROBE_FRACTION,  # an outline is one, however data will be cut
        rest=pace.rest * samples,
        stream=4.0 * counted.stream * samples,
        put_out=load.outputs,
        rows=load.rows,
        pairs=max((group.inside.size // 2 for group in layout.groups if group.inside is not None), default=0),
    )
    rehearses = any(signal.finds == "curves" for signal in signals) and bool(methods.allocation.rivals())
    survey = cost_of(signals, work) + (_rehearsals(load, methods, pace, work) if rehearses else 0.0)
    compares = any(signal.finds == "curves" or signal.tail for signal in signals)
    inside = load.beside(methods) + ACTIVATIONS * load.features * load.rows / work.batches
    logits = max(COPIES * LOGITS_BYTES - inside, 0.0) * (compares and pace.slices)
    streams = work.stream * (2 if methods.two_streams else 1)
    moving, filed = (_moving(work, signals, streams, rehearses, kept) for kept in (True, False))
    offloaded = is_offloaded(model)
    return Estimate(
        seconds=_fit_seconds(load, methods, pace, samples) + survey,
        sample=pace.blocks + pace.rest,
        logits=int(logits),
        memory=int(inside + logits + moving + offloaded * visiting(model, layout)),
        forward_flops=counted.flops * samples,
        gram_flops=load.gram,
        disk=offloaded * layout.block_bytes,
        rows=load.rows * processes,
        features=load.features,
        streams=int(streams),
        movable=int(moving - filed),
        offloaded=offloaded,
    )


def _rehearsals(load: _Load, methods: Methods, pace: Pace, work: Work) -> float:
    """Seconds of trying all shares that an allocation considers."""
    once = _fit_seconds(load, methods.rehearsed(), pace, load.samples / REHEARSED_FRACTION)
    return (1 + len(methods.allocation.rivals())) * (once + (work.forward + work.rest) / REHEARSED_FRACTION)


def _moving(work: Work, signals: Iterable[Signal], streams: float, rehearses: bool, kept: bool) -> float:
    """Bytes of hidden states in memory at once, where the streams are ``kept`` there or are in files."""
    rehearsing = (streams + 3 * work.stream) / REHEARSED_FRACTION * rehearses  # two streams, three of unseen batches
    return max(kept * streams, kept * work.stream + memory_of(signals, work), rehearsing)


@dataclass(frozen=True)
class _Load:
    """What all groups ask for together.

    Args:
        gram: operations of their Gram products.
        target: of the products with their targets.
        solve: of one solve each.
        steps: operations on next to no data of one elimination each.
        memory: bytes of one block and its statistics, the most of any.
        outputs: features that all consumers together put out for a row.
        samples: that all of this is of.
        rows: of the widest group.
        features: of that group.
        passage: operations of taking all rows through the weights that are refitted, forwards and backwards.
        passing: bytes that a row of the largest takes there.
    """

    gram: float
    target: float
    solve: float
    steps: float
    memory: int
    outputs: int
    samples: int
    rows: int
    features: int
    passage: float
    passing: int

    @classmethod
    def of(cls, model: nn.Module, layout: Layout, counted: Counted, samples: int) -> _Load:
        """Of a model's groups on so many samples."""
        widths = {group.name: features_of(model, layout, group.name) for group in layout.groups}
        outputs = {group.name: rows_of(model.get_submodule(group.consumer.module)) for group in layout.groups}
        rows = {name: counted.rows.get(name, 0) * samples for name in widths}
        paths = [path for stack in layout.stacks for path in stack.blocks]
        statistics = [
            sum(statistics_of(model, group, widths[group.name]) for group in layout.of_block(path)) for path in paths
        ]
        block = max((bytes_of(model.get_submodule(path)) for path in paths), default=0)
        widest = max(widths, key=lambda name: widths[name])
        able = [group for group in layout.groups if group.kind in REFITTABLE]
        return cls(
            gram=sum(2.0 * rows[name] * width**2 for name, width in widths.items()),
            target=sum(2.0 * rows[name] * width * outputs[name] for name, width in widths.items()),
            solve=sum(width**3 / 3 + 4.0 * outputs[name] * width**2 for name, width in widths.items()),
            steps=STEP_CALLS * float(sum(group.units for group in layout.groups)),
            memory=max(statistics, default=0) + block,
            outputs=sum(outputs.values()),
            samples=samples,
            rows=rows[widest],
            features=widths[widest],
            passage=sum(4.0 * rows[group.name] * group.cost * group.units for group in able),
            passing=max((24 * widths[group.name] + 24 * outputs[group.name] for group in able), default=0),
        )

    def beside(self, methods: Methods) -> int:
        """Bytes of one block, its statistics, and the rows that its producers are refitted on."""
        rows = min(self.rows, methods.refit.most_rows) if methods.refit.changes_producers else 0
        return self.memory + self.passing * rows


def _fit_seconds(load: _Load, methods: Methods, pace: Pace, samples: float) -> float:
    """Seconds of one fit on so many samples of all those that ``load`` is of."""
    share = samples / max(load.samples, 1)
    passes = pace.blocks * samples * (STUDENT_PASSES + methods.two_streams)
    products = share * (load.gram + load.target * methods.two_streams) / pace.products
    contest = methods.compensator.solves
    if methods.refit.changes_producers:  # and the consumer is fitted once more
        seen = min(1.0, methods.refit.most_rows / max(share * load.rows, 1))
        passes += pace.blocks * samples * (1 + methods.refit.looks)
        products += share * (load.gram + seen * methods.refit.products * load.passage) / pace.products
        contest *= 2
    return passes + products + (contest + ELIMINATION) * load.solve / pace.solves + load.steps * pace.call
