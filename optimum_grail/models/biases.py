"""Give a family's linear layers biases where its stock config can say so (``affine=True`` on a LLaMA)."""

from __future__ import annotations

import torch
from torch import nn

from optimum_grail.errors import ConfigError
from optimum_grail.models.layout import Layout
from optimum_grail.models.stock import config_of


def add_biases_(model: nn.Module, layout: Layout) -> int:
    """Set the config's bias flags and give every linear layer that they cover a zero bias; outputs stay the same.

    Costs and parameter counts of ``layout`` are those before: resolve again afterwards.

    Args:
        model: the model, compressed or not.
        layout: its layout.

    Returns:
        the number of parameters added (0 if all biases were there).

    Raises:
        ConfigError: no group of the model has a bias flag.
    """
    flagged = [group for group in layout.groups if getattr(layout.specs[group.name], "bias_flag", None)]
    if not flagged:
        raise ConfigError(
            f"The stock config of {type(model).__name__} has no flag for biases, so affine=True cannot be stored. Use "
            "affine=False."
        )
    added = 0
    for group in flagged:
        config = config_of(model, group.owner)
        setattr(config, str(layout.specs[group.name].bias_flag), True)  # type: ignore[union-attr]
        for port in (*group.producers, group.consumer):
            module = model.get_submodule(port.module)
            if isinstance(module, nn.Linear) and module.bias is None:
                module.bias = nn.Parameter(torch.zeros_like(module.weight[:, 0]), module.weight.requires_grad)
                added += module.out_features
    return added
