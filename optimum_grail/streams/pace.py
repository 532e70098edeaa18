"""How fast this machine is at what a run consists of: a pass of the model, matrix products, and small operations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.data.batches import Batch
from optimum_grail.models.banks import is_bank, parameters_per_expert
from optimum_grail.models.layout import Layout
from optimum_grail.models.matrix import feature_axis
from optimum_grail.models.residence import device_of
from optimum_grail.streams.calls import on_device
from optimum_grail.streams.hooks import first, hooked
from optimum_grail.streams.language_head import LanguageHead, run_blocks, short

CALLS = 200
"""Small operations that are timed."""
RATE_SIZE = 768
"""Rows and columns of the matrices whose product is timed."""
SAMPLES, TOKENS = 32, 2048
"""Most samples of a timed pass, and most tokens of them together."""


@dataclass(frozen=True)
class Pace:
    """How fast this machine is at what a run consists of, measured now.

    Args:
        blocks: seconds of one sample's pass through all blocks.
        rest: of its pass through everything else, the head above all.
        products: float32 operations per second of a matrix product.
        solves: float64 operations per second of one.
        call: seconds of an operation on next to no data.
        samples: of the pass that was timed.
        slices: whether there is a language model's head, whose logits are made in slices.
    """

    blocks: float
    rest: float
    products: float
    solves: float
    call: float
    samples: int
    slices: bool = False


@torch.no_grad()
def pace_of(model: nn.Module, layout: Layout, batch: Batch) -> Pace:
    """Measure this machine on a pass of this model and on the products that a fit consists of.

    Args:
        model: in eval mode.
        layout: its stacks.
        batch: of the calibration data, or an outline of it; as many samples are sent through as a batch will have.
    """
    device = device_of(model)
    ids = batch.inputs.get("input_ids")
    size = min(batch.size, SAMPLES if ids is None else max(1, min(SAMPLES, TOKENS // ids.shape[1])))
    inputs = on_device(model, batch.head(size))
    head = LanguageHead.of(model, short(inputs))
    clock = _Clock(device)
    first_blocks = [model.get_submodule(stack.blocks[0]) for stack in layout.stacks]
    last_blocks = [model.get_submodule(stack.blocks[-1]) for stack in layout.stacks]
    with hooked(
        before=[(block, clock.begin) for block in first_blocks], after=[(block, clock.end) for block in last_blocks]
    ):
        run_blocks(model, inputs)  # a first pass does not count
        clock.spent, start = 0.0, clock.now()
        if head is None:
            model(**inputs)
            whole = clock.now() - start
        else:
            entering = head.entering(inputs)
            whole = clock.now() - start + _head_seconds(head, entering.flatten(0, -2), clock)
    tiny = torch.ones(8, device=device)
    start = clock.now()
    for _ in range(CALLS):
        tiny = tiny * 1.0
    call = (clock.now() - start) / CALLS
    return Pace(
        blocks=clock.spent / size,
        rest=max(whole - clock.spent, 0.0) / size,
        products=matmul_rate(device),
        solves=matmul_rate(device, torch.float64),
        call=call,
        samples=size,
        slices=head is not None,
    )


def _head_seconds(head: LanguageHead, rows: Tensor, clock: _Clock) -> float:
    """Seconds that the logits of ``rows`` ``[N, features]`` take, in slices; told from one of them."""
    part = rows[: head.slice]
    head.logits(part)
    start = clock.now()
    head.logits(part)
    return (clock.now() - start) * len(rows) / len(part)


@dataclass
class _Clock:
    """Adds up the time between the beginning of stacks and their end."""

    device: torch.device
    spent: float = 0.0
    begun: float = 0.0

    def now(self) -> float:
        """Seconds, once the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def begin(self, *_: object) -> None:
        """A hook on the first block of a stack."""
        self.begun = self.now()

    def end(self, *_: object) -> None:
        """A hook on the last block of a stack."""
        self.spent += self.now() - self.begun


def matmul_rate(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, repeats: int = 4) -> float:
    """Operations per second of a matrix product on ``device``, measured now."""
    matrix = torch.ones(RATE_SIZE, RATE_SIZE, device=device, dtype=dtype)
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        best = max(best, 2.0 * RATE_SIZE**3 / (time.perf_counter() - start))
    return best


@dataclass
class Counted:
    """Counts of one sample.

    Args:
        flops: operations in blocks.
        rows: per group.
        stream: elements of the widest hidden state.
    """

    flops: float = 0.0
    rows: dict[str, int] = field(default_factory=dict)
    stream: int = 0


@contextmanager
def counting(model: nn.Module, layout: Layout) -> Iterator[Counted]:
    """Count what the passes within do."""
    counted = Counted()

    def layer(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Count the operations of a linear layer or a convolution."""
        weight = module.get_parameter("weight")
        counted.flops += 2.0 * output.numel() * weight.shape[1:].numel()

    def bank(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Count the operations of experts: each row goes through those that were chosen for it."""
        counted.flops += 2.0 * sum(item.numel() for item in args[1:2]) * parameters_per_expert(module)

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
    banks = [module for each in blocks for module in each.modules() if is_bank(module)]
    hooks = [*((each, block) for each in blocks), *((module, layer) for module in linears)]
    hooks += [(module, bank) for module in banks]
    hooks += [(model.get_submodule(group.consumer.module), consumer(group.name)) for group in layout.groups]
    with hooked(after=hooks):
        yield counted
