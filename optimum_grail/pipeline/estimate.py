"""What a run will cost, told before it starts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from optimum_grail.data.batches import PROBE_FRACTION, Batch, CalibrationData
from optimum_grail.errors import OutputError
from optimum_grail.fit.methods import Methods
from optimum_grail.fit.rehearsal import REHEARSED_FRACTION
from optimum_grail.models.layout import Layout
from optimum_grail.models.precision import Precision
from optimum_grail.signals import Work
from optimum_grail.streams.calls import on_device
from optimum_grail.streams.language_head import COPIES, LOGITS_BYTES, run_blocks
from optimum_grail.streams.memory import available_memory
from optimum_grail.streams.pace import Counted, Pace, counting, pace_of
from optimum_grail.streams.problems import view_of
from optimum_grail.survey.survey import cost_of, memory_of, signals_of

STUDENT_PASSES = 2.5
"""Student forwards per block: half of one for the attention's statistics, one for the FFN's, one to move on."""
ELIMINATION, CONTEST = 3, 11
"""Solves that an elimination is worth; and those of a fit that tries ridges on held-out rows, losses included."""
WRITING = 1.5
"""Passes of a sample that writing it, token by token, takes."""
STEP_CALLS = 40
"""Operations on little data that an elimination makes for every unit that goes."""
ROWS_PER_FEATURE = 4
"""Calibration rows that a fit wants for every feature."""
HEADROOM = 0.8
"""Share of the free memory that a run may plan with."""


@dataclass(frozen=True)
class Estimate:
    """Cost of a run beyond the loaded model.

    Args:
        seconds: expected wall time of survey and fit, and of what :meth:`beside` adds.
        memory: bytes of streams (unless they are kept in files), one block's statistics and copies, and logits.
        forward_flops: floating point operations of one pass over the calibration data through all blocks.
        gram_flops: of all Gram products, once.
        disk: bytes of streams that are kept in files.
        rows: calibration rows that the widest group sees.
        features: of that group.
        sample: seconds of one sample's pass through the whole model.
        logits: bytes of ``memory`` that are logits, in float32 whatever the model computes in.
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
        disk = f" and {_size(self.disk)} of disk" if self.disk else ""
        needs = f"{_span(self.seconds)} and about {_size(self.memory)} of memory beyond the model{disk}"
        return f"Needs {needs} ({data})."

    def check_disk(self) -> None:
        """Refuse to begin where the streams do not fit.

        Raises:
            OutputError: the temporary folder has less space than they take.
        """
        if not self.disk:
            return
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if self.disk > free:
            raise OutputError(
                f"The calibration data's hidden states need {_size(self.disk)} of disk, and {folder} has {_size(free)} "
                "free. Name another folder with the environment variable TMPDIR, or leave --offload-streams out."
            )


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


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{max(count / 2**20, 1):.0f} MiB"


@torch.no_grad()
def estimate(
    model: nn.Module,
    layout: Layout,
    methods: Methods,
    batches: Sequence[Batch],
    offload: bool = False,
) -> Estimate:
    """Count one sample's operations with hooks, measure this machine's pace, multiply.

    Args:
        model: in eval mode, in the dtype that it will compute in.
        layout: its stacks and groups.
        methods: of the run.
        batches: calibration data, or an outline of it.
        offload: whether streams are kept in files.
    """
    samples = sum(batch.size for batch in batches)
    with counting(model, layout) as counted:
        run_blocks(model, on_device(model, batches[0].head()))
    pace = pace_of(model, layout, batches[0])
    load = _Load.of(model, layout, counted, samples)
    passes, fitted = pace.blocks * samples, _fit_seconds(load, methods, pace, samples)
    signals = signals_of(methods.allocation.needs).values()
    work = Work(
        forward=passes,
        gram=load.gram / pace.products,
        solve=load.solve / pace.solves + load.steps * pace.call,
        groups=len(layout.groups),
        blocks=len(load.paths),
        batches=max(len(batches), PROBE_FRACTION),  # an outline is one batch, whatever the data will be cut into
        rest=pace.rest * samples,
        stream=4.0 * counted.stream * samples,
        put_out=load.outputs,
        rows=load.rows,
    )
    rehearses = any(signal.finds == "curves" for signal in signals) and bool(methods.allocation.rivals())
    survey = cost_of(signals, work)
    if rehearses:
        rehearsed = _fit_seconds(load, methods, pace, samples / REHEARSED_FRACTION)
        survey += (1 + len(methods.allocation.rivals())) * (rehearsed + (passes + work.rest) / REHEARSED_FRACTION)
    copies = 2 if methods.two_streams else 1
    streams = work.stream * copies
    compares = rehearses or any(signal.finds == "curves" or signal.tail for signal in signals)
    logits = COPIES * LOGITS_BYTES if compares and pace.slices else 0
    measuring = work.stream * (not offload) + memory_of(signals, work)
    rehearsing = (
        (streams + 3 * work.stream) / REHEARSED_FRACTION * rehearses
    )  # two streams, and three of unseen batches
    return Estimate(
        seconds=fitted + survey,
        sample=pace.blocks + pace.rest,
        logits=int(logits),
        memory=int(load.memory + logits + max(0 if offload else streams, measuring, rehearsing)),
        forward_flops=counted.flops * samples,
        gram_flops=load.gram,
        disk=int(streams) if offload else 0,
        rows=load.rows,
        features=load.features,
    )


@dataclass(frozen=True)
class _Load:
    """What all groups ask for together.

    Args:
        gram: operations of their Gram products.
        target: of the products with their targets.
        solve: of one solve each.
        steps: operations on next to no data of one elimination each.
        memory: bytes of one block and its statistics, the most of any.
        paths: the blocks.
        outputs: features that all consumers together put out for a row.
        samples: that all of this is of.
        rows: of the widest group.
        features: of that group.
    """

    gram: float
    target: float
    solve: float
    steps: float
    memory: int
    paths: Sequence[str]
    outputs: int
    samples: int
    rows: int
    features: int

    @classmethod
    def of(cls, model: nn.Module, layout: Layout, counted: Counted, samples: int) -> _Load:
        """Of a model's groups on so many samples."""
        widths = {group.name: _features(model, layout, group.name) for group in layout.groups}
        outputs = {group.name: layout.weights[group.consumer.module].rows for group in layout.groups}
        rows = {name: counted.rows.get(name, 0) * samples for name in widths}
        paths = [path for stack in layout.stacks for path in stack.blocks]
        statistics = [sum(32 * widths[group.name] ** 2 for group in layout.of_block(path)) for path in paths]
        block = max((_bytes(model.get_submodule(path)) for path in paths), default=0)
        widest = max(widths, key=lambda name: widths[name])
        return cls(
            gram=sum(2.0 * rows[name] * width**2 for name, width in widths.items()),
            target=sum(2.0 * rows[name] * width * outputs[name] for name, width in widths.items()),
            solve=sum(width**3 / 3 + 4.0 * outputs[name] * width**2 for name, width in widths.items()),
            steps=STEP_CALLS * float(sum(group.units for group in layout.groups)),
            memory=max(statistics, default=0) + block,
            paths=paths,
            outputs=sum(outputs.values()),
            samples=samples,
            rows=rows[widest],
            features=widths[widest],
        )


def _fit_seconds(load: _Load, methods: Methods, pace: Pace, samples: float) -> float:
    """Seconds of one fit on so many samples of all those that ``load`` is of."""
    share = samples / max(load.samples, 1)
    passes = pace.blocks * samples * (STUDENT_PASSES + methods.two_streams)
    products = share * (load.gram + load.target * methods.two_streams) / pace.products
    solves = (CONTEST if "held-out" in methods.compensator.needs else 1) + ELIMINATION
    return passes + products + solves * load.solve / pace.solves + load.steps * pace.call


def choose_dtype_(model: nn.Module, cost: Estimate, native: Precision) -> str | None:
    """Keep float32 streams if they fit the free memory, else compute in the checkpoint's dtype and say so.

    The drift of the residual stream is a small difference of large numbers: bfloat16 would drown it.
    """
    free = available_memory(next(model.parameters()).device)
    needed = cost.memory - cost.logits
    if free is None or needed < HEADROOM * free or native.main == torch.float32:
        return None
    native.restore_(model)
    return (
        f"Hidden states in float32 need {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free: computed in "
        f"{native.main} instead. Fewer samples (--num-samples) or tokens (--seqlen) would fit."
    )


def _features(model: nn.Module, layout: Layout, name: str) -> int:
    group = layout.group(name)
    weights = layout.weights[group.consumer.module]
    taps = weights.taps if view_of(model, group) == "patch" else 1
    return group.units * group.consumer.span * taps


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * 4 for parameter in module.parameters())
