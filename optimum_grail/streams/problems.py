"""From modules to numbers: the :class:`GroupProblem` of a group, and its readout back in the consumer's layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.moments import Statistics
from optimum_grail.core.problem import GroupProblem
from optimum_grail.core.readout import Readout
from optimum_grail.models.attributes import read
from optimum_grail.models.banks import is_bank
from optimum_grail.models.matrix import (
    View,
    is_channelwise,
    owns_bias,
    producer_matrix,
    rows,
    shared_to_patch,
    taps,
    to_matrix,
)
from optimum_grail.models.residence import device_of, is_offloaded
from optimum_grail.processes.ranks import Ranks
from optimum_grail.streams.collect import Collector, norm_scale

PATCH_BYTES = 2 << 30
"""Above this size of the exact patch Gram a convolution's taps share one map (GRAIL's form)."""


def view_of(model: nn.Module, group: ChannelGroup) -> View:
    """``"patch"`` (exact) if the consumer's Gram fits the memory set aside, else ``"shared"``."""
    consumer = model.get_submodule(group.consumer.module)
    features = group.units * group.consumer.span * taps(consumer)
    if is_bank(consumer):
        return "patch"
    return "shared" if taps(consumer) > 1 and 8 * features**2 > PATCH_BYTES else "patch"


def norm_of(model: nn.Module, group: ChannelGroup) -> nn.BatchNorm2d | None:
    """The BatchNorm right after the group's consumer."""
    module = model.get_submodule(group.norm) if group.norm is not None else None
    return module if isinstance(module, nn.BatchNorm2d) else None


def collector_for(model: nn.Module, group: ChannelGroup, held_out: bool, ranks: Ranks) -> Collector:
    """An empty collector for ``group``, whose rows ``ranks`` share."""
    consumer = model.get_submodule(group.consumer.module)
    view, scale = view_of(model, group), scale_behind(model, group)
    return Collector(group, consumer, scale, view, held_out, is_offloaded(model), ranks)


def scale_behind(model: nn.Module, group: ChannelGroup) -> Tensor | None:
    """By what each output of the consumer is multiplied before it joins the stream, ``[O]``: the BatchNorm after it, a
    factor, or both; ``None``: nothing."""
    norm = norm_of(model, group)
    scale = None if norm is None else norm_scale(norm)
    if group.factor is None:
        return scale
    found = read(model, group.factor)
    if not isinstance(found, nn.Parameter):  # one number for all outputs
        outputs = rows(model.get_submodule(group.consumer.module))
        factor = torch.full((outputs,), float(found), device=device_of(model))
    else:
        factor = found.detach().flatten()
    return factor if scale is None else scale * factor


def problem_of(model: nn.Module, group: ChannelGroup, statistics: Statistics | None, seed: int) -> GroupProblem:
    """The group as numbers, its consumer still at full width; float64 on the device of the weights."""
    consumer = model.get_submodule(group.consumer.module)
    view = view_of(model, group)
    return GroupProblem(
        name=group.name,
        units=group.units,
        weight=to_matrix(consumer, view),
        producers=_Producers(model, group),
        statistics=statistics,
        owns_bias=view == "patch" and owns_bias(model, group),
        norm=_norm_statistics(model, group) if view == "patch" else None,
        seed=seed,
    )


@dataclass(frozen=True)
class _Producers(Sequence[Tensor]):
    """The matrices of a group's producers as they are now, each made when it is looked up."""

    model: nn.Module
    group: ChannelGroup

    @property
    def _indices(self) -> list[int]:
        ports = enumerate(self.group.producers)
        return [index for index, port in ports if not is_channelwise(self.model.get_submodule(port.module))]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        return producer_matrix(self.model, self.group, self._indices[index])


def _norm_statistics(model: nn.Module, group: ChannelGroup) -> tuple[Tensor, Tensor, float] | None:
    """Mean and variance that the BatchNorm expects of the consumer's output without its bias, and its epsilon."""
    norm = norm_of(model, group)
    if norm is None or norm.running_mean is None or norm.running_var is None:
        return None
    mean = norm.running_mean.double()
    bias = model.get_submodule(group.consumer.module)._parameters.get("bias")
    return (mean if bias is None else mean - bias.detach().double()), norm.running_var.double(), norm.eps


def to_patches(readout: Readout, model: nn.Module, group: ChannelGroup) -> Readout:
    """A readout fitted with shared taps in the consumer's own layout."""
    if view_of(model, group) == "patch":
        return readout
    return Readout(shared_to_patch(readout.weight, model.get_submodule(group.consumer.module)), readout.bias)
