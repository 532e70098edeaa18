"""Casting weights without touching what is not saved.

``module.to(dtype)`` also casts non-persistent buffers; a rotary embedding's frequencies would lose their digits for
good, and the model in memory would differ from the one that is loaded from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optimum_grail.models.residence import device_of


def saved_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of every floating-point parameter and persistent buffer."""
    for path, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None or not tensor.is_floating_point() or name in module._non_persistent_buffers_set:
                continue
            yield f"{path}.{name}".lstrip("."), tensor


def cast_(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast every floating-point parameter and persistent buffer to ``dtype``; what is offloaded comes in it later."""
    for _, tensor in saved_tensors(model):
        tensor.data = tensor.data.to(dtype)


@dataclass(frozen=True)
class Precision:
    """The dtypes of a checkpoint.

    Args:
        main: dtype of the first parameter, used for tensors that the checkpoint did not have.
        dtypes: dtype by tensor name.
    """

    main: torch.dtype
    dtypes: dict[str, torch.dtype]

    @classmethod
    def of(cls, model: nn.Module) -> Precision:
        """The dtypes of ``model`` now."""
        return cls(next(model.parameters()).dtype, {name: tensor.dtype for name, tensor in saved_tensors(model)})

    def restore_(self, model: nn.Module) -> None:
        """Give every tensor of ``model`` its dtype back."""
        for name, tensor in saved_tensors(model):
            tensor.data = tensor.data.to(self.dtypes.get(name, self.main))


@contextmanager
def float32_on_cpu(model: nn.Module) -> Iterator[None]:
    """Compute in float32 on a CPU, where half precision is slow; every tensor has its dtype and value back after."""
    if device_of(model).type != "cpu":
        yield
        return
    before = Precision.of(model)
    cast_(model, torch.float32)
    try:
        yield
    finally:
        before.restore_(model)
