"""Re-estimating the BatchNorm after a consumer, said as a readout."""

from __future__ import annotations

import torch
from torch import Tensor

from optimum_grail.core.readout import Readout
from optimum_grail.core.solve import NormalEquations


def renormalised(readout: Readout, equations: NormalEquations, norm: tuple[Tensor, Tensor, float]) -> Readout:
    """The readout whose output has the mean and variance that the BatchNorm expects.

    Replacing the running statistics by those of the new output is the same map as rescaling the output's rows and
    shifting them to the old statistics (REPAIR, Jordan et al. 2022), so it competes with other readouts on equal terms.

    Args:
        readout: weight ``[O, K]``.
        equations: of the rows the statistics are taken from.
        norm: running mean ``[O]``, running variance ``[O]`` and epsilon.
    """
    running_mean, running_var, eps = norm
    n = max(equations.count, 1)
    weight = readout.weight
    mean = weight @ equations.mean / n
    variance = ((weight @ (equations.gram / n)) * weight).sum(1) - mean.square()
    gain = torch.sqrt((running_var.to(mean) + eps) / (variance.clamp(min=0) + eps))
    return Readout(weight * gain[:, None], running_mean.to(mean) - gain * mean)
