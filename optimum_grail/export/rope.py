"""Rotary positions as a value: the base, and what each frequency is divided by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from optimum_grail.errors import ArchitectureError, shorten


@dataclass(frozen=True)
class Rope:
    """Rotary positions.

    Args:
        base: of the frequencies.
        divisors: one per pair of features, where frequencies are scaled; else empty. With ``longer``: up to
            ``original`` tokens.
        longer: the divisors in contexts of more than ``original`` tokens; empty where there is one set.
        original: tokens up to which ``divisors`` serve, where there are two sets.
        attention: what rotated queries and keys are multiplied by.
    """

    base: float
    divisors: tuple[float, ...] = ()
    longer: tuple[float, ...] = ()
    original: int | None = None
    attention: float = 1.0

    @property
    def is_scaled(self) -> bool:
        """Whether frequencies are other than the base says."""
        return bool(self.divisors) or self.attention != 1.0


def read_rope(rotary: nn.Module, config: Any) -> Rope:
    """The rotary positions of a model, from what its own module computes with.

    Args:
        rotary: the module that makes them; its buffer ``inv_freq`` has one frequency per pair of features.
        config: the model's configuration.

    Raises:
        ArchitectureError: they turn a part of the features only, or change with the length of the text otherwise than
            from one set to another.
    """
    values = dict(config.rope_parameters)
    kind, base, dim = str(values.get("rope_type", "default")), float(values["rope_theta"]), int(config.head_dim)
    frequencies = rotary.get_buffer("inv_freq").detach().to("cpu", torch.float64)
    if 2 * len(frequencies) != dim or kind == "dynamic":
        raise ArchitectureError(
            f"The rotary positions {shorten(values, 200)} turn {2 * len(frequencies)} of {dim} features of a head"
            f"{', and change with every length of text' if kind == 'dynamic' else ''}; other engines cannot be told "
            "that. Run this model with transformers."
        )
    if kind == "longrope" and values["short_factor"] != values["long_factor"]:
        original = int(values["original_max_position_embeddings"])
        sets = [tuple(float(value) for value in values[f"{name}_factor"]) for name in ("short", "long")]
        return Rope(base, sets[0], sets[1], original, float(vars(rotary)["attention_scaling"]))
    plain = base ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    divisors = tuple(float(value) for value in plain / frequencies)
    scaled = kind != "default" or not all(math.isclose(value, 1, rel_tol=1e-5) for value in divisors)
    return Rope(base, divisors if scaled else (), attention=float(vars(rotary)["attention_scaling"]))
