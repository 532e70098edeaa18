"""What a run costs each of the processes that share it, from sizes alone: for planning runs that nobody has tried yet.

Passes of the rows and the products of statistics are divided; solves are not, every process makes all of them; and what
is handed over grows with the square of the features, whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PASSES = 3.5
"""Forward passes of all rows: survey 1 with its backward sweep over an eighth of them, two streams of the fit."""
SOLVES = 9
"""Solves per group: eliminations of survey and fit (3 each), the consumer's fit for some ridges on shared factors."""
VALUE = 8
"""Bytes of a float64 sum."""
STREAM = 4
"""Bytes of a hidden value."""


@dataclass(frozen=True)
class Size:
    """A group, as far as its cost goes.

    Args:
        features: that enter its consumer.
        outputs: of its consumer.
        count: how many groups of this size there are.
    """

    features: int
    outputs: int
    count: int = 1


@dataclass(frozen=True)
class Job:
    """A run.

    Args:
        groups: of the whole model.
        stored: parameters of all blocks.
        active: of them, those that one token passes; fewer in a mixture of experts.
        blocks: how many there are.
        hidden: values of a token between two blocks.
        tokens: of calibration data.
        subsets: parts of the rows whose sums are kept apart: what is held out, or sources.
        surveyed: whether statistics of the dense model are measured first.
        weight: bytes of a stored parameter.
    """

    groups: Sequence[Size]
    stored: float
    active: float
    blocks: int
    hidden: int
    tokens: int
    subsets: int = 2
    surveyed: bool = True
    weight: int = 2


@dataclass(frozen=True)
class Node:
    """What one process has.

    Args:
        flops: of passes and products, per second.
        solves: of factorisations in float64, per second.
        network: bytes per second to the others.
    """

    flops: float
    solves: float
    network: float


@dataclass(frozen=True)
class Part:
    """What a run costs one process.

    Args:
        passes: seconds of its rows' passes and products.
        solves: seconds of what every process does.
        waits: seconds of traffic.
        handed: bytes of sums that it hands over.
        traffic: bytes that leave it: a ring sends every sum almost twice.
        streams: bytes of its rows' hidden states, which files can hold.
        statistics: bytes of the sums of the widest group, and of what is made of them.
        block: bytes of one block's weights in float32; with --low-memory the others stay on disk.
        weights: bytes of the model.
    """

    passes: float
    solves: float
    waits: float
    handed: float
    traffic: float
    streams: float
    statistics: float
    block: float
    weights: float

    @property
    def seconds(self) -> float:
        """Altogether."""
        return self.passes + self.solves + self.waits

    @property
    def low_memory(self) -> float:
        """Bytes of memory with weights and streams in files."""
        return self.block + self.statistics


def handed_over(job: Job) -> float:
    """Bytes of sums that every process hands over in a run, whatever the number of processes.

    Of every group the second moments once in the survey; and of every subset in the fit, with the drift's products.
    """
    total = 0.0
    for size in job.groups:
        moments = size.features**2 + size.features
        drift = size.outputs * size.features + size.outputs
        total += size.count * VALUE * (moments * job.surveyed + job.subsets * (moments + drift))
    return total


def part(job: Job, node: Node, processes: int) -> Part:
    """What the run costs one of so many processes, each on a ``node`` of its own."""
    share = job.tokens / processes
    grams = sum(size.count * 2.0 * size.features * (2 * size.features + size.outputs) for size in job.groups)
    solving = sum(
        size.count * (size.features**3 / 3 + 4.0 * size.outputs * size.features**2) * SOLVES for size in job.groups
    )
    handed = handed_over(job)
    traffic = 2 * (processes - 1) / processes * handed
    widest = max((size.features for size in job.groups), default=0)
    outputs = max((size.outputs for size in job.groups if size.features == widest), default=0)
    return Part(
        passes=share * (2.0 * PASSES * job.active + grams) / node.flops,
        solves=solving / node.solves,
        waits=traffic / node.network,
        handed=handed if processes > 1 else 0.0,
        traffic=traffic,
        streams=2.0 * STREAM * job.hidden * share,
        statistics=VALUE * ((job.subsets + 2.0) * widest**2 + (job.subsets + 1.0) * widest * outputs),
        block=4.0 * job.stored / max(job.blocks, 1),
        weights=float(job.weight) * job.stored,
    )


def speed_up(job: Job, node: Node, processes: int) -> float:
    """How many times faster so many processes are than one."""
    return part(job, node, 1).seconds / part(job, node, processes).seconds


def llama_70b(tokens: int) -> Job:
    """A decoder of 80 layers of 8192 values: 64 heads, 8 of them key-value heads, 28672 feed-forward channels."""
    hidden, channels, layers = 8192, 28672, 80
    block = 2 * hidden * hidden + 2 * hidden * hidden // 8 + 3 * hidden * channels
    groups = [Size(hidden, hidden, layers), Size(channels, hidden, layers)]
    return Job(groups, float(layers * block), float(layers * block), layers, hidden, tokens)


def mixture_400b(tokens: int) -> Job:
    """A decoder of 48 layers of 5120 values, every second of them with 128 experts of 8192 channels of which a token
    meets one and a shared one, the others with 16384 channels: 400 billion parameters, of which 17 are met. What can go
    are heads, and channels that all tokens pass; routed experts stay (:mod:`optimum_grail.architectures.moe`)."""
    hidden, layers, experts, channels, dense = 5120, 48, 128, 8192, 16384
    attention = 2 * hidden * hidden + 2 * hidden * hidden // 5
    stored = layers * attention + layers // 2 * 3 * hidden * ((experts + 1) * channels + dense)
    active = layers * attention + layers // 2 * 3 * hidden * (2 * channels + dense)
    groups = [
        Size(hidden, hidden, layers),
        Size(dense, hidden, layers // 2),
        Size(channels, hidden, layers // 2),
    ]
    return Job(groups, float(stored), float(active), layers, hidden, tokens)
