"""The tensors of a LoRA adapter in the shapes of the compressed model.

For a layer ``W + s B A``: where the layer produces a group's units, the rows of ``B`` shrink as the rows of ``W`` did,
which is exact. Where it consumes them, ``A`` is itself a consumer: its columns are refitted to what it read,
``A' = argmin Σ‖A h - A' z‖²``, on the features ``h`` of the dense model with the adapter and their kept part ``z``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup, Port
from optimum_grail.core.moments import MomentSums, TargetSums
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import NormalEquations
from optimum_grail.data.batches import Batch
from optimum_grail.streams.hooks import given, hooked
from optimum_grail.streams.probe import real_rows, rows_of

PREFIX = "base_model.model."
"""What PEFT puts before the path of a module."""
RIDGE = 1e-3
PASS_BYTES = 2 << 30
"""Memory for the sums of one pass over the data; more layers than fit take more passes."""


def convert_state(
    adapted: nn.Module,
    state: Mapping[str, Tensor],
    groups: Iterable[ChannelGroup],
    reductions: Mapping[str, Reduction],
    batches: Sequence[Batch],
) -> dict[str, Tensor]:
    """The adapter's tensors in the shapes of the compressed model, dtypes kept.

    Args:
        adapted: the dense model with the adapter, a PEFT model.
        state: the adapter's tensors, under PEFT's names.
        groups: the groups that lost units.
        reductions: how each of them shrank.
        batches: data to refit ``lora_A`` of consumers on; without any their columns are only gathered.
    """
    out = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    consumers: dict[str, tuple[Port, Reduction]] = {}
    for group in groups:
        reduction = reductions[group.name]
        for port in sorted(group.producers, key=lambda port: -port.offset):
            for key in (key_of(port.module, "lora_B.weight"), key_of(port.module, "lora_B.bias")):
                if key in out:
                    out[key] = _rows(out[key], port, reduction)
        key = key_of(group.consumer.module, "lora_A.weight")
        if key in out:
            consumers[group.consumer.module] = group.consumer, reduction
            out[key] = _columns(out[key], group.consumer, reduction)
    for path, fitted in _refit(adapted, state, out, consumers, batches):
        port, key = consumers[path][0], key_of(path, "lora_A.weight")
        out[key] = _spliced(out[key], port, fitted.shape[1], fitted)
    return out


def key_of(path: str, name: str) -> str:
    """PEFT's name of a tensor of the layer at ``path``."""
    return f"{PREFIX}{path}.{name}"


def _spliced(tensor: Tensor, port: Port, width: int, strip: Tensor) -> Tensor:
    """``tensor`` with the ``width`` columns from the port's offset on replaced by ``strip``."""
    left, right = tensor[..., : port.offset], tensor[..., port.offset + width :]
    return torch.cat([left, strip.to(tensor), right], -1).contiguous()


def _columns(tensor: Tensor, port: Port, reduction: Reduction) -> Tensor:
    """Plain pruning (or folding) of columns: where the refit starts from."""
    width = len(reduction.assignment) * port.span
    return _spliced(tensor, port, width, reduction.lift_columns(tensor.narrow(1, port.offset, width), port.span))


def _rows(tensor: Tensor, port: Port, reduction: Reduction) -> Tensor:
    width = len(reduction.assignment) * port.span
    strip = reduction.encode_rows(tensor.narrow(0, port.offset, width), port.span)
    return _spliced(tensor.movedim(0, -1), port, width, strip.movedim(0, -1)).movedim(-1, 0).contiguous()


def _refit(
    adapted: nn.Module,
    state: Mapping[str, Tensor],
    gathered: Mapping[str, Tensor],
    consumers: Mapping[str, tuple[Port, Reduction]],
    batches: Sequence[Batch],
) -> Iterator[tuple[str, Tensor]]:
    """Path and new strip of ``lora_A`` of every consumer, as many at a time as memory is set aside for."""
    sizes = {path: 8 * (reduction.slots * port.span) ** 2 for path, (port, reduction) in consumers.items()}
    left = list(consumers) if batches else []
    while left:
        chosen: list[str] = []
        while left and (not chosen or sum(sizes[path] for path in [*chosen, left[0]]) <= PASS_BYTES):
            chosen.append(left.pop(0))
        sums = [_Sums(path, *consumers[path], state, gathered) for path in chosen]
        _one_pass(adapted, sums, batches)
        yield from ((each.path, each.solution()) for each in sums)


class _Sums:
    """What one consumer's ``lora_A`` reads, as sums: ``d = A h - A' z`` on ``z``, with ``A'`` the gathered columns."""

    def __init__(
        self, path: str, port: Port, reduction: Reduction, state: Mapping[str, Tensor], gathered: Mapping[str, Tensor]
    ) -> None:
        self.path, self.port, self.reduction = path, port, reduction
        key, slots = key_of(path, "lora_A.weight"), reduction.slots * port.span
        self.full = state[key].detach().float()[:, self._strip(len(reduction.assignment))]
        self.start = gathered[key].to(self.full)[:, port.offset : port.offset + slots]
        self.moments = MomentSums.zero(slots, self.full.device)
        self.target = TargetSums.zero(len(self.full), slots, self.full.device)
        self.mask: Tensor | None = None

    def _strip(self, units: int) -> slice:
        return slice(self.port.offset, self.port.offset + units * self.port.span)

    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Add the rows that enter the consumer, padding left out."""
        rows = real_rows(rows_of(given(args, kwargs).detach().float(), -1), self.mask)
        rows = rows[:, self._strip(len(self.reduction.assignment))].to(self.full.device)
        kept = self.reduction.encode_columns(rows, self.port.span)
        self.moments.add_(kept)
        self.target.add_(rows @ self.full.T - kept @ self.start.T, kept)

    def solution(self) -> Tensor:
        """The refitted strip, ``[r, slots * span]``; the sums end with it."""
        moments = self.moments.taken()
        moments.check(self.path)
        whole = Reduction.keep_all(moments.gram.shape[0])
        equations = NormalEquations.of(self.start, moments, self.target.taken(), whole)
        return equations.fit(RIDGE, "diagonal", "naive", affine=False).at(1.0).weight.cpu()


@torch.inference_mode()
def _one_pass(adapted: nn.Module, sums: Sequence[_Sums], batches: Sequence[Batch]) -> None:
    device = next(adapted.parameters()).device
    with hooked(before=[(adapted.get_submodule(PREFIX + each.path), each.hook) for each in sums]):
        for batch in batches:
            for each in sums:
                each.mask = batch.inputs.get("attention_mask")
            adapted(**{name: tensor.to(device) for name, tensor in batch.inputs.items()})
