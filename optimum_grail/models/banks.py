"""Mixtures of experts as modules: the bank that holds all experts of a layer in a few tensors, and its router.

A bank is what transformers makes of the experts of every family: a module whose parameters ``gate_up_proj`` (or
``up_proj``) ``[E, 2 I, H]`` and ``down_proj`` ``[E, H, I]`` hold expert after expert along the first axis, each matrix
transposed where ``is_transposed`` says so, with ``gate_up_proj_bias`` and ``down_proj_bias`` where ``has_bias`` does.
It is called with hidden states, the experts chosen for each, and their gates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.errors import ArchitectureError

DOWN = "down_proj"
RAISING = ("gate_up_proj", "up_proj")


def is_bank(module: nn.Module) -> bool:
    """Whether ``module`` holds all experts of a layer, one behind the other."""
    weight = module._parameters.get(DOWN)
    return weight is not None and weight.dim() == 3


def is_router(module: nn.Module) -> bool:
    """Whether ``module`` scores experts: a row of its weight for each, and a number of those that it chooses."""
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() == 2 and isinstance(vars(module).get("top_k"), int)


def is_turned(module: nn.Module) -> bool:
    """Whether the matrices of a bank are stored transposed, ``[E, I, H]``."""
    return bool(vars(module).get("is_transposed", False))


def width_of(bank: nn.Module) -> int:
    """Channels inside each expert."""
    return int(bank.get_parameter(DOWN).shape[1 if is_turned(bank) else 2])


def parameters_per_expert(bank: nn.Module) -> int:
    """Parameters that one expert takes along."""
    whole = [parameter for parameter in bank._parameters.values() if parameter is not None]
    return sum(parameter.numel() // max(len(parameter), 1) for parameter in whole)


def parameters_per_channel(bank: nn.Module) -> int:
    """Parameters that one channel of one expert takes along."""
    width = max(width_of(bank), 1)
    return sum(channels_first(bank, name, bank.get_parameter(name))[0].numel() // width for name in channelled(bank))


def channelled(bank: nn.Module) -> list[str]:
    """Names of the parameters that hold something per channel: what makes channels, its biases, and what reads them."""
    names = (*RAISING, *(f"{name}_bias" for name in RAISING), DOWN)
    return [name for name in names if bank._parameters.get(name) is not None]


def channels_first(bank: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """``tensor``, laid out as the parameter ``name`` of ``bank``, as ``[E, I, ...]``: all that each channel of each
    expert holds there, its gate before its other half. A view."""
    axis = _channel_axis(bank, name)
    rows = tensor.movedim(axis, 1)
    if not name.startswith(RAISING[0]):
        return rows
    halves = rows.unflatten(1, (2, -1)) if _is_concatenated(bank) else rows.unflatten(1, (-1, 2))
    return halves.transpose(1, 2) if _is_concatenated(bank) else halves


def channels_back(bank: nn.Module, name: str, channels: Tensor) -> Tensor:
    """The inverse of :func:`channels_first`, for any number of channels."""
    if name.startswith(RAISING[0]):
        channels = (channels.transpose(1, 2) if _is_concatenated(bank) else channels).flatten(1, 2)
    return channels.movedim(1, _channel_axis(bank, name)).contiguous()


def producers_of(bank: nn.Module, expert: int) -> list[Tensor]:
    """What makes the channels of one expert: float64 ``[I, inputs + bias]``, for the gate and for its other half."""
    name = next(name for name in RAISING if bank._parameters.get(name) is not None)
    rows = channels_first(bank, name, bank.get_parameter(name).detach())[expert].double()
    parts = list(rows.unbind(1)) if name == RAISING[0] else [rows]
    if bank._parameters.get(f"{name}_bias") is None:
        return parts
    bias = channels_first(bank, f"{name}_bias", bank.get_parameter(f"{name}_bias").detach())[expert].double()
    return [torch.cat([part, own[:, None]], 1) for part, own in zip(parts, bias.reshape(len(rows), -1).T, strict=True)]


def _channel_axis(bank: nn.Module, name: str) -> int:
    if name.endswith("_bias"):
        return 1
    return 1 if (name == DOWN) == is_turned(bank) else 2


def _is_concatenated(bank: nn.Module) -> bool:
    """Whether all gates come first (or gate and other half of a channel lie side by side, as in gpt_oss)."""
    return bool(vars(bank).get("is_concatenated", True))


def companions(bank: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a bank holds beside ``down_proj``: names and tensors with one slice per expert along the first axis."""
    for name, tensor in (*bank.named_parameters(recurse=False), *bank.named_buffers(recurse=False)):
        if name != DOWN and tensor.dim():
            yield name, tensor


@dataclass(frozen=True)
class Routed:
    """What a bank was called with.

    Args:
        states: hidden states, ``[N, H]``.
        chosen: int64, ``[N, K]``: the experts of each.
        gates: ``[N, K]``: by what their outputs are multiplied.
        tokens: batch and sequence that the ``N`` rows come from; ``(N,)`` where that is not known.
    """

    states: Tensor
    chosen: Tensor
    gates: Tensor
    tokens: tuple[int, ...]

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any], tokens: Sequence[int] = ()) -> Routed:
        """From the arguments of a bank's call, in the order in which every family of transformers gives them.

        Args:
            args, kwargs: of the call.
            tokens: batch and sequence of the hidden state that entered the block.

        Raises:
            ArchitectureError: they are others.
        """
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if len(given) != 3 or given[1].is_floating_point() or given[1].shape != given[2].shape:
            shapes = [tuple(value.shape) for value in given]
            raise ArchitectureError(
                f"Experts were called with tensors of shapes {shapes}; expected hidden states, the experts chosen for "
                "each, and their gates. Leave the experts of this family out of its map."
            )
        states, chosen, gates = given
        states, chosen = states.reshape(-1, states.shape[-1]), chosen.reshape(-1, chosen.shape[-1])
        known = tuple(tokens) if prod(tokens) == len(states) and tokens else (len(states),)
        return cls(states, chosen, gates.reshape_as(chosen), known)

    def rows_of(self, expert: int) -> tuple[Tensor, Tensor]:
        """Which rows go through ``expert``, int64 ``[n]``, and its gate on each, ``[n]``."""
        rows, places = torch.where(self.chosen == expert)
        return rows, self.gates[rows, places]

    def hidden(self, bank: Any, expert: int, rows: Tensor) -> Tensor:
        """What enters ``down_proj`` of ``expert`` on these rows, ``[n, I]``; the gate is not in it."""
        name = next(name for name in RAISING if bank._parameters.get(name) is not None)
        weight, bias = bank.get_parameter(name)[expert], bank._parameters.get(f"{name}_bias")
        raised = self.states[rows].to(weight.dtype) @ (weight if is_turned(bank) else weight.T)
        if bias is not None:
            raised = raised + bias[expert]
        return bank._apply_gate(raised) if name == RAISING[0] else bank.act_fn(raised)  # type: ignore[no-any-return]

    def outputs(self, bank: nn.Module, expert: int, hidden: Tensor) -> Tensor:
        """What ``expert`` puts out for its ``hidden`` rows, ``[n, H]``, before its gate."""
        down, bias = bank.get_parameter(DOWN)[expert], bank._parameters.get(f"{DOWN}_bias")
        found = hidden @ (down if is_turned(bank) else down.T)
        return found if bias is None else found + bias[expert]

    def features(self, bank: nn.Module) -> Tensor:
        """The features of a bank as one consumer, ``[*tokens, E · I]``: gate times what enters ``down_proj``, expert
        after expert, zero where an expert was not chosen. Its matrix ``[H, E · I]`` then gives what it puts out, but
        for biases."""
        count, width = len(bank.get_parameter(DOWN)), width_of(bank)
        found = self.states.new_zeros(len(self.states), count, width)
        for expert in range(count):
            rows, gates = self.rows_of(expert)
            if len(rows):
                found[rows, expert] = (self.hidden(bank, expert, rows) * gates[:, None]).to(found.dtype)
        return found.flatten(1).unflatten(0, self.tokens)

    def share(self, bank: nn.Module, expert: int) -> tuple[Tensor, Tensor]:
        """The features of one expert, ``[*tokens, I]``, and where it was chosen, bool ``[*tokens]``."""
        rows, gates = self.rows_of(expert)
        found = self.states.new_zeros(len(self.states), width_of(bank))
        found[rows] = (self.hidden(bank, expert, rows) * gates[:, None]).to(found.dtype)
        here = torch.zeros(len(found), dtype=torch.bool, device=found.device)
        here[rows] = True
        return found.unflatten(0, self.tokens), here.unflatten(0, self.tokens)
