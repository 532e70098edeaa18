"""A model that is another for a moment: one group pruned and compensated at full width, or a block of it a copy."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.problem import GroupProblem
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.data.batches import Batch
from optimum_grail.models.depth import without
from optimum_grail.models.layout import Layout, Stack
from optimum_grail.models.matrix import from_matrix
from optimum_grail.models.residence import forget_copies, resident
from optimum_grail.streams.capture import Captured, capture
from optimum_grail.streams.problems import norm_of, to_patches


@contextmanager
def spare(model: nn.Module, path: str) -> Iterator[nn.Module]:
    """A copy in the place of the module at ``path``, put back afterwards; yields the copy."""
    parent, _, name = path.rpartition(".")
    home, original = model.get_submodule(parent), model.get_submodule(path)
    with resident(model, path):
        twin = copy.deepcopy(original)
    home._modules[name] = twin
    try:
        yield twin
    finally:
        home._modules[name] = original
        del twin
        forget_copies(model)


def capture_fed(
    model: nn.Module, layout: Layout, stack: Stack, dropped: Sequence[str], batches: Sequence[Batch], offload: bool
) -> Captured:
    """What a stack sees in ``model`` as it is now, where others that feed it lack those of the ``dropped`` blocks that
    are theirs."""
    with without(model, layout, [path for path in dropped if path not in stack.blocks]):
        return capture(model, {stack.name: stack.blocks}, batches, offload=offload)[stack.name]


@contextmanager
def masked(
    model: nn.Module, group: ChannelGroup, problem: GroupProblem, reduction: Reduction, readout: Readout
) -> Iterator[None]:
    """The model with this group pruned and compensated at full width: dropped columns are zero; put back afterwards."""
    consumer: Any = model.get_submodule(group.consumer.module)
    full = torch.zeros_like(problem.weight)
    columns = (reduction.kept[:, None] * problem.span + torch.arange(problem.span)).flatten()
    full[:, columns.to(full.device)] = readout.weight
    weight = from_matrix(to_patches(Readout(full), model, group).weight, consumer)
    norm = norm_of(model, group)
    shift = readout.bias
    with ExitStack() as stack:
        stack.enter_context(_replaced(consumer.weight, weight))
        if shift is not None and consumer.bias is not None:
            stack.enter_context(_replaced(consumer.bias, consumer.bias + shift))
        elif shift is not None and norm is not None and norm.running_mean is not None:
            stack.enter_context(_replaced(norm.running_mean, norm.running_mean - shift))
        yield


@contextmanager
def _replaced(tensor: Tensor, value: Tensor) -> Iterator[None]:
    original = tensor.data
    tensor.data = value.detach().to(original)
    try:
        yield
    finally:
        tensor.data = original
