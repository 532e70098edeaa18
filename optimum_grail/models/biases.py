"""Give a family's linear layers biases where its stock config can say so (``affine=True`` on a LLaMA)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from optimum_grail.errors import ConfigError
from optimum_grail.models.layout import Layout
from optimum_grail.models.residence import give_
from optimum_grail.models.stock import config_of


@dataclass(frozen=True)
class AddedBiases:
    """What :func:`add_biases_` changed.

    Args:
        modules: the layers that had no bias.
        flags: configs and their bias flags that were off.
    """

    modules: Sequence[nn.Linear]
    flags: Sequence[tuple[Any, str]]

    @property
    def count(self) -> int:
        """Number of parameters added; 0 if all biases were there."""
        return sum(module.out_features for module in self.modules)

    def remove_(self) -> None:
        """Take the biases out again; right as long as they are zero."""
        for module in self.modules:
            module.register_parameter("bias", None)
        for config, flag in self.flags:
            setattr(config, flag, False)


def add_biases_(model: nn.Module, layout: Layout) -> AddedBiases:
    """Set the config's bias flags and give every linear layer that they cover a zero bias; outputs stay the same.

    Costs and parameter counts of ``layout`` are those before: resolve again afterwards.

    Args:
        model: the model, compressed or not.
        layout: its layout.

    Returns:
        what was changed, to be undone.

    Raises:
        ConfigError: no group of the model has a bias flag.
    """
    flagged = [group for group in layout.groups if getattr(layout.specs[group.name], "bias_flag", None)]
    if not flagged:
        raise ConfigError(
            f"The stock config of {type(model).__name__} has no flag for biases, so affine=True cannot be stored. Use "
            "affine=False."
        )
    modules: list[nn.Linear] = []
    flags: list[tuple[Any, str]] = []
    for group in flagged:
        config, flag = config_of(model, group.owner), str(layout.specs[group.name].bias_flag)  # type: ignore[union-attr]
        if not getattr(config, flag):
            setattr(config, flag, True)
            flags.append((config, flag))
        for port in (*group.producers, group.consumer):
            module = model.get_submodule(port.module)
            if isinstance(module, nn.Linear) and module.bias is None:
                module.bias = nn.Parameter(torch.zeros_like(module.weight[:, 0]), module.weight.requires_grad)
                give_(module, "bias", torch.zeros(len(module.weight), dtype=module.weight.dtype))
                modules.append(module)
    return AddedBiases(modules, flags)
