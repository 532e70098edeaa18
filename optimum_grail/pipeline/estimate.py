"""What a run will cost, told before it starts."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.data.batches import PROBE_FRACTION, Batch, CalibrationData
from optimum_grail.errors import OutputError
from optimum_grail.fit.methods import Methods
from optimum_grail.fit.rehearsal import REHEARSED_FRACTION
from optimum_grail.models.layout import Layout
from optimum_grail.models.matrix import feature_axis
from optimum_grail.models.precision import Precision
from optimum_grail.signals import Work
from optimum_grail.streams.calls import on_device
from optimum_grail.streams.hooks import first, hooked
from optimum_grail.streams.memory import available_memory
from optimum_grail.streams.problems import view_of
from optimum_grail.survey.survey import cost_of, signals_of

STUDENT_PASSES = 2.5
"""Student forwards per block: half of one for the attention's statistics, one for the FFN's, one to move on."""
RATE_SIZE = 768
ROWS_PER_FEATURE = 4
"""Calibration rows that a fit wants for every feature."""
HEADROOM = 0.8
"""Share of the free memory that a run may plan with."""


@dataclass(frozen=True)
class Estimate:
    """Cost of a run beyond the loaded model.

    Args:
        seconds: expected wall time of survey and fit.
        memory: bytes of streams (unless they are kept in files), one block's statistics and one block's copies.
        forward_flops: floating point operations of one pass over the calibration data through all blocks.
        gram_flops: of all Gram products, once.
        disk: bytes of streams that are kept in files.
        rows: calibration rows that the widest group sees.
        features: of that group.
    """

    seconds: float
    memory: int
    forward_flops: float
    gram_flops: float
    disk: int = 0
    rows: int = 0
    features: int = 0

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
        return f"Needs {needs} ({data}); measuring quality and speed comes on top."

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
    model: nn.Module, layout: Layout, methods: Methods, batches: Sequence[Batch], offload: bool = False
) -> Estimate:
    """Count one sample's operations with hooks, measure this machine's matrix-product rate, multiply."""
    samples = sum(batch.size for batch in batches)
    with _counting(model, layout) as counted:
        model(**on_device(model, batches[0].head()))
    forward = counted.flops * samples
    rows = {name: count * samples for name, count in counted.rows.items()}
    widths = {group.name: _features(model, layout, group.name) for group in layout.groups}
    gram = sum(2.0 * rows.get(name, 0) * width**2 for name, width in widths.items())
    target = sum(
        2.0 * rows.get(g.name, 0) * widths[g.name] * layout.weights[g.consumer.module].rows for g in layout.groups
    )
    solve = sum(4.0 * width**3 for width in widths.values())
    fit = forward * (STUDENT_PASSES + methods.two_streams) + gram + target * methods.two_streams + 4 * solve
    signals = signals_of(methods.allocation.needs).values()
    paths = [path for stack in layout.stacks for path in stack.blocks]
    parts = max(len(batches), PROBE_FRACTION)  # an outline is one batch, whatever the data will be cut into
    survey = cost_of(signals, Work(forward, gram, solve, len(layout.groups), len(paths), parts))
    if any(signal.finds == "curves" for signal in signals) and methods.allocation.rivals():
        survey += (1 + len(methods.allocation.rivals())) * fit / REHEARSED_FRACTION
    copies = 2 if methods.two_streams else 1
    statistics = max((sum(32 * widths[g.name] ** 2 for g in layout.of_block(path)) for path in paths), default=0)
    block = max((_bytes(model.get_submodule(path)) for path in paths), default=0)
    streams = counted.stream * samples * 4 * copies
    memory = statistics + block + (0 if offload else 2 * streams)
    widest = max(widths, key=lambda name: widths[name])
    return Estimate(
        seconds=(fit + survey) / matmul_rate(next(model.parameters()).device),
        memory=int(memory),
        forward_flops=forward,
        gram_flops=gram,
        disk=int(streams) if offload else 0,
        rows=rows.get(widest, 0),
        features=widths[widest],
    )


def matmul_rate(device: torch.device | str = "cpu", repeats: int = 4) -> float:
    """Floating point operations per second of a float32 matrix product on ``device``, measured now."""
    matrix = torch.ones(RATE_SIZE, RATE_SIZE, device=device)
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        best = max(best, 2.0 * RATE_SIZE**3 / (time.perf_counter() - start))
    return best


def choose_dtype_(model: nn.Module, cost: Estimate, native: Precision) -> str | None:
    """Keep float32 streams if they fit the free memory, else compute in the checkpoint's dtype and say so.

    The drift of the residual stream is a small difference of large numbers: bfloat16 would drown it.
    """
    free = available_memory(next(model.parameters()).device)
    if free is None or cost.memory < HEADROOM * free or native.main == torch.float32:
        return None
    native.restore_(model)
    return (
        f"Hidden states in float32 need {cost.memory / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free: computed in "
        f"{native.main} instead. Fewer samples (--num-samples) or tokens (--seqlen) would fit."
    )


def _features(model: nn.Module, layout: Layout, name: str) -> int:
    group = layout.group(name)
    weights = layout.weights[group.consumer.module]
    taps = weights.taps if view_of(model, group) == "patch" else 1
    return group.units * group.consumer.span * taps


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * 4 for parameter in module.parameters())


@dataclass
class _Counted:
    """Counts of one sample: operations in blocks, rows per group, elements of the widest hidden state."""

    flops: float
    rows: dict[str, int]
    stream: int


@contextmanager
def _counting(model: nn.Module, layout: Layout) -> Iterator[_Counted]:
    counted = _Counted(0.0, {}, 0)

    def layer(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Count the operations of a linear layer or a convolution."""
        weight = module.get_parameter("weight")
        counted.flops += 2.0 * output.numel() * weight.shape[1:].numel()

    def consumer(name: str) -> Callable[..., None]:
        """A hook that counts the rows of a group's consumer."""

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            """Count output rows."""
            counted.rows[name] = output.numel() // output.shape[feature_axis(module)]

        return hook

    def block(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Note the largest hidden state."""
        counted.stream = max(counted.stream, first(output).numel())

    blocks = [model.get_submodule(path) for stack in layout.stacks for path in stack.blocks]
    linears = [module for each in blocks for module in each.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    hooks = [*((each, block) for each in blocks), *((module, layer) for module in linears)]
    hooks += [(model.get_submodule(group.consumer.module), consumer(group.name)) for group in layout.groups]
    with hooked(after=hooks):
        yield counted
