"""One forward pass: what goes in, what comes out, how long it takes and how much memory.

Machines get busy and warm: the dense and the compressed model take turns, and every time is a median with its spread.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.data.batches import CalibrationData
from optimum_grail.errors import CheckpointError
from optimum_grail.models.residence import device_of, is_offloaded, no_gradients
from optimum_grail.report.environment import available_memory

BATCHES = (1, 8)
"""Samples per pass that are timed."""
LEAST, ROUNDS, PATIENCE = 4, 20, 1.0
"""Fewest and most passes of each model that count, and the seconds that decide between them."""
SLOW = 2.0
"""Seconds of a pass from which on the first one counts too, and two others do: what warms up is no part of them."""
ELEMENTS = 2**26
"""Of an input that is made up to a report's words."""


@dataclass(frozen=True)
class Timing:
    """Time of a forward pass.

    Args:
        seconds: the median.
        spread: half the interquartile range, in seconds.
        memory: highest memory above what the model itself takes, in bytes; ``None`` where the device does not count it.
    """

    seconds: float
    spread: float
    memory: int | None = None

    @classmethod
    def of(cls, times: Sequence[float], memory: int | None = None) -> Timing:
        """Of at least one pass."""
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else 3 * [times[0]]
        return cls(middle, (high - low) / 2, memory)


def shape_of(model: nn.Module) -> nn.Module | None:
    """A copy of ``model`` without memory for its parameters, to be timed beside it later; buffers are shared.

    ``None`` where there is no such copy: of a model that is spread over devices or partly on disk, or that Python
    cannot copy.
    """
    if is_offloaded(model) or len({parameter.device for parameter in model.parameters()}) != 1:
        return None
    try:
        return _twin(model, lambda parameter: torch.empty_like(parameter, device="meta"))
    except (TypeError, RuntimeError, NotImplementedError):  # what copy.deepcopy raises for what it cannot copy
        return None


def compare_forward(dense: nn.Module | None, compressed: nn.Module, data: CalibrationData | None) -> dict[str, Any]:
    """One pass of both models, as a report has it; empty without data.

    Args:
        dense: from :func:`shape_of`. The time of a pass depends on shapes, not on values, so it gets values of its own;
            ``None``: only inputs and outputs are told.
        compressed: in eval mode.
        data: calibration data; samples of the first batch are used.

    Returns:
        ``inputs`` and ``outputs`` of one sample, ``dtype``, ``device``; ``latency`` (medians in seconds, and their
        spreads) and ``memory`` (bytes), each with one row per batch size. Both are empty where there is no room for
        the dense model beside the compressed one.
    """
    if data is None:
        return {}
    device, dtype = device_of(compressed), next(compressed.parameters()).dtype
    batch = {name: tensor.to(device) for name, tensor in data.batches[0].inputs.items()}
    single = _resized(batch, 1)
    found: dict[str, Any] = {
        "inputs": {name: {"shape": list(t.shape), "dtype": str(t.dtype)} for name, t in single.items()},
        "outputs": _outputs(compressed, single),
        "dtype": str(dtype).removeprefix("torch."),
        "device": device.type,
        "latency": [],
        "memory": [],
    }
    if dense is None or not _fits(dense, device):
        return found
    models = [_twin(dense, lambda item: _filled(item, device)), compressed]
    for size in BATCHES:
        first, second = take_turns(models, [_resized(batch, size)] * 2)
        row = {"batch": size, "dense": first.seconds, "compressed": second.seconds}
        found["latency"].append({**row, "dense_spread": first.spread, "compressed_spread": second.spread})
        if first.memory is not None:
            found["memory"].append({"batch": size, "dense": first.memory, "compressed": second.memory})
    return found


def stopwatch_seconds(sample: float) -> float:
    """What :func:`compare_forward` takes where a pass of one sample takes ``sample`` seconds, for two models alike."""
    total = 0.0
    for size in BATCHES:
        turn = 2 * size * sample
        total += turn + (2 * turn if size * sample > SLOW else max(LEAST * turn, min(ROUNDS * turn, PATIENCE)))
    return total


def example_inputs(shapes: Mapping[str, Any], model: nn.Module, batch: int = 1) -> dict[str, Tensor]:
    """Inputs of ones, on the model's device.

    Args:
        shapes: shape and dtype of each, as :attr:`Forward.inputs` has them.
        model: floating-point inputs get the type of its weights.
        batch: samples.

    Raises:
        CheckpointError: a shape or dtype is none.
    """
    weight = next(tensor for tensor in model.parameters() if tensor.is_floating_point())
    found = {}
    for name, item in shapes.items():
        dtype = getattr(torch, str(item.get("dtype")).removeprefix("torch."), None)
        shape = item.get("shape")
        if not isinstance(dtype, torch.dtype) or not _is_shape(shape):
            raise CheckpointError(
                f"The report says {item!r} of the input {name!r}; expected a shape and a dtype of torch."
            )
        dtype = weight.dtype if dtype.is_floating_point else dtype
        found[name] = torch.ones(batch, *shape[1:], dtype=dtype, device=weight.device)
    return found


@torch.inference_mode()
def take_turns(models: Sequence[nn.Module], inputs: Sequence[Mapping[str, Tensor]]) -> list[Timing]:
    """Time passes of several models that take turns, so that a busy machine hits all alike.

    Args:
        models: in eval mode.
        inputs: of each.
    """
    warm = [_seconds(model, given) for model, given in zip(models, inputs, strict=True)]
    slow = min(warm) > SLOW
    turns = 2 if slow else max(LEAST, min(ROUNDS, int(PATIENCE / sum(warm))))
    times = [[_seconds(model, given) for model, given in zip(models, inputs, strict=True)] for _ in range(turns)]
    times += [warm] if slow else []  # else a first pass does not count
    memory = [_memory(model, given) for model, given in zip(models, inputs, strict=True)]
    return [Timing.of(spent, most) for spent, most in zip(zip(*times, strict=True), memory, strict=True)]


def _twin(model: nn.Module, of: Callable[[nn.Parameter], Tensor]) -> nn.Module:
    """A copy of ``model`` whose parameters are what ``of`` makes of them; tied ones stay tied, buffers are shared."""
    known: dict[int, Any] = {id(item): nn.Parameter(of(item), requires_grad=False) for item in model.parameters()}
    return copy.deepcopy(model, known | {id(item): item for item in model.buffers()})


def _filled(parameter: nn.Parameter, device: torch.device) -> Tensor:
    """Values that no pass makes too small or too large: norms and biases of ones, small matrices."""
    value = torch.ones_like(parameter, device=device)
    return value if value.dim() < 2 or not value.numel() else value.div_(value[0].numel())


def _fits(model: nn.Module, device: torch.device) -> bool:
    """Whether there is memory for the parameters of ``model``, and half as much again."""
    free = available_memory(str(device))
    return free is None or 1.5 * sum(p.numel() * p.element_size() for p in model.parameters()) < free


def _resized(batch: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """The first ``size`` rows of every input, from the start again where there are fewer."""
    return {name: tensor[torch.arange(size, device=tensor.device) % len(tensor)] for name, tensor in batch.items()}


def _memory(model: nn.Module, inputs: Mapping[str, Tensor]) -> int | None:
    """Bytes that a pass takes beyond what is there already, where CUDA tells."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        return None
    resting = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    model(**inputs)
    return int(torch.cuda.max_memory_allocated(device)) - resting


def _seconds(model: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    device = next(model.parameters()).device
    start = time.perf_counter()
    model(**inputs)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _outputs(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, list[int]]:
    with no_gradients(model):
        return _shapes(model(**inputs))


def _shapes(outputs: object) -> dict[str, list[int]]:
    """Shapes of the tensors that a model returns; a single one is called ``output``."""
    found = outputs if isinstance(outputs, Mapping) else {"output": outputs}
    return {str(name): list(value.shape) for name, value in found.items() if isinstance(value, Tensor)}


def _is_shape(value: object) -> bool:
    """Whether ``value`` is the shape of a tensor of a size that fits a forward pass."""
    if not isinstance(value, list | tuple) or not all(type(size) is int and size >= 0 for size in value):
        return False
    return math.prod(value) <= ELEMENTS
