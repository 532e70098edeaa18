"""Where streams go and in which precision they are computed, by what a run needs and what is free."""

from __future__ import annotations

import shutil
import tempfile

import torch
from torch import nn

from optimum_grail.errors import OutputError
from optimum_grail.models.precision import Precision
from optimum_grail.models.residence import device_of
from optimum_grail.pipeline.estimate import Estimate, size_of
from optimum_grail.processes.ranks import Ranks
from optimum_grail.report.environment import available_memory

HEADROOM = 0.8
"""Share of the free memory that a run may plan with."""


def streams_go_to_files(cost: Estimate, asked: bool | None, model: nn.Module) -> bool:
    """Whether streams are kept in files: as was ``asked``; else where memory is short of them and a disk is not.

    Args:
        cost: with the streams in memory.
        asked: by the configuration; ``None``: what fits decides.
        model: tells where streams are in memory.
    """
    if asked is not None:
        return asked
    free = available_memory(str(device_of(model)))
    if free is None or cost.memory < HEADROOM * free or not cost.movable:
        return False
    return cost.in_files().disk < HEADROOM * shutil.disk_usage(tempfile.gettempdir()).free


def check_disk(cost: Estimate) -> None:
    """Refuse to begin where the disk has no room for what a run keeps on it.

    Raises:
        OutputError: the temporary folder has less space than is needed.
    """
    if not cost.disk:
        return
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if cost.disk > free:
        raise OutputError(
            f"Hidden states of the calibration data and weights that leave memory need {size_of(cost.disk)} of disk, "
            f"and {folder} has {size_of(free)} free. Name another folder with the environment variable TMPDIR, or leave"
            " --offload-streams and --low-memory out."
        )


def choose_dtype_(model: nn.Module, cost: Estimate, native: Precision, ranks: Ranks) -> str | None:
    """Keep float32 streams if they fit the free memory of all processes, else compute in the checkpoint's dtype and say
    so.

    The drift of the residual stream is a small difference of large numbers: bfloat16 would drown it.
    """
    free = available_memory(str(device_of(model)))
    needed = cost.memory - cost.logits
    short = free is not None and needed >= HEADROOM * free and native.main != torch.float32
    if not ranks.any("whether memory is short", short):
        return None
    native.restore_(model)
    known = "less is" if free is None or not short else f"{free / 2**30:.1f} GiB are"
    return (
        f"Hidden states in float32 need {needed / 2**30:.1f} GiB and {known} free: computed in "
        f"{native.main} instead. Fewer samples (--num-samples) or tokens (--seqlen) would fit."
    )
