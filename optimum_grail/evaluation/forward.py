"""One forward pass: what goes in, what comes out, how long it takes and how much memory."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.data.batches import CalibrationData
from optimum_grail.errors import CheckpointError

ROUNDS = 20
PATIENCE = 0.5
"""Seconds: passes are repeated for so long, though at least once and at most :data:`ROUNDS` times. Four measurements of
every run wait for it."""
ELEMENTS = 2**26
"""Of an input that is made up to a report's words."""


@dataclass(frozen=True)
class Forward:
    """A model's forward pass.

    Args:
        inputs: shape and dtype of every input, for one sample.
        outputs: shape of every tensor that comes out, for one sample.
        seconds: least time by batch size: whatever else the machine does can only lengthen a pass.
        memory: highest memory above what the model itself takes, in bytes, by batch size; empty where the device does
            not count it.
    """

    inputs: Mapping[str, Any]
    outputs: Mapping[str, list[int]]
    seconds: Mapping[int, float]
    memory: Mapping[int, int]
    dtype: str
    device: str


@torch.inference_mode()
def measure_forward(model: nn.Module, data: CalibrationData | None) -> Forward | None:
    """Run ``model`` on one sample and on one batch of its calibration data; ``None`` without data.

    Args:
        model: in eval mode.
        data: the samples; the first batch is used.
    """
    if data is None:
        return None
    parameter = next(model.parameters())
    batch = {name: tensor.to(parameter.device) for name, tensor in data.batches[0].inputs.items()}
    single = {name: tensor[:1] for name, tensor in batch.items()}
    sizes = {len(next(iter(inputs.values()))): inputs for inputs in (single, batch)}
    found = {size: _timed(model, inputs) for size, inputs in sizes.items()}
    return Forward(
        inputs={name: {"shape": list(t.shape), "dtype": str(t.dtype)} for name, t in single.items()},
        outputs=_shapes(model(**single)),
        seconds={size: seconds for size, (seconds, _) in found.items()},
        memory={size: memory for size, (_, memory) in found.items() if memory is not None},
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=parameter.device.type,
    )


def compare_forward(dense: Forward | None, compressed: Forward | None) -> dict[str, Any]:
    """Both passes as a report has them: ``latency`` in seconds and ``memory`` in bytes, each a list of rows."""
    if dense is None or compressed is None:
        return {}
    return {
        "inputs": dict(compressed.inputs),
        "outputs": dict(compressed.outputs),
        "dtype": compressed.dtype,
        "device": compressed.device,
        "latency": _rows(dense.seconds, compressed.seconds),
        "memory": _rows(dense.memory, compressed.memory),
    }


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
        if not isinstance(dtype, torch.dtype) or not isinstance(shape, list | tuple) or math.prod(shape) > ELEMENTS:
            raise CheckpointError(
                f"The report says {item!r} of the input {name!r}; expected a shape and a dtype of torch."
            )
        dtype = weight.dtype if dtype.is_floating_point else dtype
        found[name] = torch.ones(batch, *shape[1:], dtype=dtype, device=weight.device)
    return found


@torch.inference_mode()
def take_turns(models: Sequence[nn.Module], inputs: Sequence[Mapping[str, Tensor]], turns: int = ROUNDS) -> list[float]:
    """Least seconds of one pass of each model; they take turns, so that a busy machine hits all alike.

    Args:
        models: in eval mode.
        inputs: of each.
        turns: passes of each, beyond one that does not count.
    """
    rounds = [
        [_seconds(model, given, next(model.parameters()).device) for model, given in zip(models, inputs, strict=True)]
        for _ in range(1 + turns)
    ]
    return [min(times) for times in zip(*rounds[1:], strict=True)]


def _rows(dense: Mapping[int, float], compressed: Mapping[int, float]) -> list[dict[str, Any]]:
    return [{"batch": size, "dense": dense[size], "compressed": compressed[size]} for size in dense]


def _timed(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[float, int | None]:
    """Least seconds of a pass, after one that does not count, and its memory in bytes where CUDA tells."""
    device = next(model.parameters()).device
    counted = device.type == "cuda"
    resting = torch.cuda.memory_allocated(device) if counted else 0
    if counted:
        torch.cuda.reset_peak_memory_stats(device)
    first = _seconds(model, inputs, device)
    rounds = max(1, min(ROUNDS, int(PATIENCE / first)))
    spent = min(_seconds(model, inputs, device) for _ in range(rounds))
    return spent, torch.cuda.max_memory_allocated(device) - resting if counted else None


def _seconds(model: nn.Module, inputs: Mapping[str, Tensor], device: torch.device) -> float:
    start = time.perf_counter()
    model(**inputs)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _shapes(outputs: Any) -> dict[str, list[int]]:
    """Shapes of the tensors that a model returns; a single one is called ``output``."""
    found = outputs if isinstance(outputs, Mapping) else {"output": outputs}
    return {str(name): list(value.shape) for name, value in found.items() if isinstance(value, Tensor)}
