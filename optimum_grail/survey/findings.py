"""Results of a survey of a dense model; they do not depend on the sparsity, so they can be cached."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Curve:
    """What the survey found out about one group.

    Args:
        errors: float64, ``[units + 1]``; ``errors[t]`` is the error after ``t`` removals, relative to that of dropping
            everything (bent curves: the damage itself, and the sensitivity is 1).
        order: removal order, int64.
        sensitivity: rise of the calibration loss per unit of relative error.
    """

    errors: Tensor
    order: Tensor
    sensitivity: float

    def damage(self, width: int) -> float:
        """Predicted rise of the calibration loss at ``width`` kept units."""
        return self.sensitivity * float(self.errors[len(self.errors) - 1 - width])

    def damages(self, widths: Tensor) -> Tensor:
        """Predicted rise of the calibration loss at each of many ``widths`` (int64)."""
        return self.sensitivity * self.errors[len(self.errors) - 1 - widths]


@dataclass(frozen=True)
class Findings:
    """Everything a survey found out.

    Args:
        curves: by group; empty if no allocation asked for them.
        signals: what else was asked for, by the signal's name, then by group, module or block, whatever it describes.
    """

    curves: Mapping[str, Curve] = field(default_factory=dict)
    signals: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def of(self, name: str) -> Mapping[str, Tensor]:
        """The signal ``name``; empty if it was not asked for."""
        return self.signals.get(name, {})

    def to_tensors(self) -> dict[str, Tensor]:
        """Flat tensors, as safetensors files hold them; :meth:`from_tensors` reads them back."""
        tensors = {
            f"{signal}/{place}": value for signal, found in self.signals.items() for place, value in found.items()
        }
        for name, curve in self.curves.items():
            tensors[f"curves/{name}/errors"] = curve.errors
            tensors[f"curves/{name}/order"] = curve.order
            tensors[f"curves/{name}/sensitivity"] = torch.tensor(curve.sensitivity, dtype=torch.float64)
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Findings:
        """The findings that :meth:`to_tensors` wrote."""
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        signals: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for key, value in tensors.items():
            first, _, rest = key.partition("/")
            if first == "curves":
                name, _, part = rest.rpartition("/")
                parts[name][part] = value
            else:
                signals[first][rest] = value
        curves = {n: Curve(p["errors"], p["order"], float(p["sensitivity"])) for n, p in parts.items()}
        return cls(curves, dict(signals))
