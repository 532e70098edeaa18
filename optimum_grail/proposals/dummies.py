"""A batch to watch a model run on, made up from its config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.errors import ArchitectureError


def dummy_inputs(model: nn.Module) -> dict[str, Tensor]:
    """Two random samples: tokens ``[2, 12]`` (int64) with a mask, images ``[2, channels, size, size]`` (float32), or
    both, as config and signature ask for them.

    Raises:
        ArchitectureError: they tell neither.
    """
    config: Any = vars(model).get("config")
    accepted = inspect.signature(model.forward).parameters
    generator, found = torch.Generator().manual_seed(1), dict[str, Tensor]()
    words = _number(config, "text_config", "vocab_size")
    if words and "input_ids" in accepted:
        found["input_ids"] = torch.randint(3, words, (2, 12), generator=generator)
        if "attention_mask" in accepted:
            found["attention_mask"] = torch.ones(2, 12, dtype=torch.int64)
            found["attention_mask"][1, 9:] = 0
        if "decoder_input_ids" in accepted:
            found["decoder_input_ids"] = torch.randint(3, words, (2, 7), generator=generator)
    channels = _number(config, "vision_config", "num_channels")
    if channels and "pixel_values" in accepted:
        size = _number(config, "vision_config", "image_size") or 32
        found["pixel_values"] = torch.randn(2, channels, size, size, generator=generator)
    if not found:
        raise ArchitectureError(
            f"Neither the config nor the signature of {type(model).__name__} tells what it is called with. Pass a "
            "batch of two or more samples as inputs=…, tensors by name."
        )
    return found


def main_input(inputs: Mapping[str, Tensor]) -> str:
    """What one calibration sample is, in the word of a map."""
    if "pixel_values" in inputs and "input_ids" not in inputs:
        return "image"
    return "text" if "input_ids" in inputs else "tensors"


def _number(config: Any, part: str, name: str) -> int:
    """A whole number of the config or of the part of it that could hold it; 0 if there is none."""
    for holder in (config, None if config is None else vars(config).get(part)):
        if holder is not None and type(found := vars(holder).get(name)) is int:
            return found
    return 0
