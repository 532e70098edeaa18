"""Inputs for the example of a map, made up from what its config says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.stock import config_of


def inputs_for(model: nn.Module, spec: ArchitectureSpec) -> dict[str, Tensor]:
    """Two random samples that fit the config of ``model``: tokens ``[2, 12]``, images ``[2, channels, size, size]``; or
    what the map says.

    Raises:
        ArchitectureError: the config describes neither.
    """
    if spec.inputs is not None:
        return dict(spec.inputs())
    generator, config, found = torch.Generator().manual_seed(1), config_of(model, ""), dict[str, Tensor]()
    if isinstance(words := getattr(config, "vocab_size", None), int) and spec.main_input != "image":
        found["input_ids"] = torch.randint(3, words, (2, 12), generator=generator)
        if spec.mask is not None:
            found[spec.mask] = torch.ones(2, 12, dtype=torch.int64)
            found[spec.mask][1, 9:] = 0
        if getattr(config, "is_encoder_decoder", False):
            found["decoder_input_ids"] = torch.randint(3, words, (2, 12), generator=generator)
    if isinstance(channels := getattr(config, "num_channels", None), int):
        size = getattr(config, "image_size", 32)
        found["pixel_values"] = torch.randn(2, channels, size, size, generator=generator)
    if not found:
        raise ArchitectureError(
            f"The config of {type(model).__name__} tells neither a vocabulary nor image channels, so the example's "
            "inputs cannot be made up. Pass inputs=…, tensors by name."
        )
    return found
