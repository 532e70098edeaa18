"""Where the residual sum after a consumer is seen: what is added to its output is found there again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import AT_OUTPUT
from optimum_grail.models.matrix import feature_axis
from optimum_grail.proposals.bench import Bench, Pass

Found = tuple[str | None, str | None]
"""A stream and a factor, as a map names them."""


def find_stream(bench: Bench, end: str) -> Found:
    """The stream behind the module at ``end`` and the factor on the way there.

    Args:
        bench: the block.
        end: path of the consumer, or of the BatchNorm after it.

    Returns:
        the first module after it whose input is the residual sum, else one whose output is, else the block's output;
        ``(None, None)`` where what is added arrives nowhere as it is (a norm follows).
    """
    put_out = _last(bench, end, bench.reference.outputs[end])
    step = torch.linspace(-1, 1, put_out.shape[-1], dtype=put_out.dtype) * put_out.abs().mean().clamp(min=0.1)
    added = step if not _is_map(bench, end) else step[:, None, None]
    after = bench.run({end: lambda output: output + added})
    order = list(bench.reference.inputs)
    later = order[order.index(end) + 1 :]
    places = [(path, "input") for path in later] + [(AT_OUTPUT, "output")]
    places += [(path, "output") for path in order if path != end and path in bench.reference.outputs]
    for path, side in places:
        before, now = _state(bench.reference, path, side), _state(after, path, side)
        if before is None or now is None or before.shape[-1] != step.shape[-1]:
            continue
        factor = _factor_between(now - before, step)
        if factor is None or (
            before.shape == put_out.shape and torch.allclose(before, put_out * factor, rtol=1e-4, atol=1e-6)
        ):
            continue
        if torch.allclose(factor, torch.ones_like(factor), rtol=1e-3):
            return _named(path, side), None
        if name := _holder(bench.block, factor):
            return _named(path, side), name
    return None, None


def _named(path: str, side: str) -> str:
    return path if side == "input" or path == AT_OUTPUT else f"{path}:output"


def _is_map(bench: Bench, path: str) -> bool:
    return feature_axis(bench.block.get_submodule(path)) == 1


def _last(bench: Bench, path: str, tensor: Tensor) -> Tensor:
    """With its features last."""
    return tensor.movedim(1, -1) if _is_map(bench, path) else tensor


def _state(seen: Pass, path: str, side: str) -> Tensor | None:
    """What was seen at a place, features last."""
    found = seen.result if path == AT_OUTPUT else (seen.inputs if side == "input" else seen.outputs).get(path)
    return found.movedim(1, -1) if found is not None and found.dim() == 4 else found


def _factor_between(moved: Tensor, step: Tensor) -> Tensor | None:
    """What every element of ``step`` was multiplied by, ``[features]``; ``None`` if that differs between rows."""
    flat = moved.flatten(0, -2)
    if not flat.abs().max() > 0:
        return None
    factor = flat.mean(0) / torch.where(step.abs() < 1e-9, torch.ones_like(step), step)
    if not torch.allclose(flat, (factor * step).expand_as(flat), rtol=1e-2, atol=1e-4):
        return None
    small = step.abs() < step.abs().max() * 1e-3
    return torch.where(small, factor[~small].mean(), factor)


def _holder(block: nn.Module, factor: Tensor) -> str | None:
    """Path of the parameter or number in ``block`` that is ``factor``."""
    for name, parameter in block.named_parameters():
        if parameter.numel() == factor.numel() and torch.allclose(parameter.flatten(), factor, rtol=2e-2, atol=1e-4):
            return name
    if not torch.allclose(factor, factor.mean().expand_as(factor), rtol=1e-2):
        return None
    for path, module in block.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and abs(value - float(factor.mean())) < 1e-3 * abs(value):
                return f"{path}.{name}".lstrip(".")
    return None
