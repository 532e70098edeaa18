"""Whether a model's weights stay on disk while it is compressed, and how it is then loaded."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from optimum_grail.checkpoints.spool import weights_folder
from optimum_grail.errors import CheckpointError
from optimum_grail.models.residence import hook_of, hooks_of
from optimum_grail.report.environment import available_memory

SHARE = 0.6
"""Of the free memory, what weights in float32 may take before they stay on disk; streams and statistics need more."""
_FLOAT32 = 4

Choice = Callable[[nn.Module, torch.device], bool]
"""Told a model without weights and where it will compute; says whether its weights stay on disk."""


def needed_bytes(skeleton: nn.Module) -> int:
    """What the weights of a model take in the precision that it is compressed in: float32, tied ones once."""
    return _FLOAT32 * sum(parameter.numel() for parameter in skeleton.parameters())


def choice_of(low_memory: bool | None) -> Choice:
    """The choice that a user's ``low_memory`` means; ``None``: where the weights would take too much of what is free.

    The choice raises a :class:`CheckpointError` where weights are not to stay on disk and do not fit.
    """

    def choose(skeleton: nn.Module, device: torch.device) -> bool:
        """Weigh the model against the free memory."""
        if low_memory:
            return True
        needed, free = needed_bytes(skeleton), available_memory(str(device))
        if free is None or needed <= SHARE * free:
            return False
        if low_memory is None:
            return True
        raise CheckpointError(
            f"The weights need {needed / 2**30:.1f} GiB in float32, in which they are compressed, and only "
            f"{free / 2**30:.1f} GiB are free, of which they may take {SHARE:.0%}. Leave --no-low-memory out: weights "
            "then stay on disk until their layer's turn comes."
        )

    return choose


def load_offloaded(load: Callable[..., Any], device: torch.device, **arguments: Any) -> tuple[Any, Any]:
    """A model all of whose weights stay in their files, and transformers' report on loading it.

    Weights that transformers takes as they are, or only renames, are read from the checkpoint itself when they are
    needed; those that it converts (such as fused experts) are written once into a folder that goes with the model.

    Args:
        load: a class's ``from_pretrained`` with all other arguments given.
        device: where modules compute.
        arguments: for ``load``.
    """
    folder = weights_folder()
    model, report = load(device_map={"": "disk"}, offload_folder=str(folder.path), **arguments)
    weakref.finalize(model, folder.remove)
    if device.type != "cpu":
        _execute_on_(model, device)
    return model, report


def _execute_on_(model: nn.Module, device: torch.device) -> None:
    """Let the hooks load weights to ``device``; what is in memory all the time moves there."""
    for module in model.modules():
        for part in hooks_of(module):
            part.execution_device = device
        offloaded = hook_of(module)
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.device.type != "meta":
                module._buffers[name] = buffer.to(device)
        if offloaded is None:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(device)
