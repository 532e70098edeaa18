"""What all processes of a run have to agree on before they fit: the request, the data, and the widths."""

from __future__ import annotations

import torch

from optimum_grail.config.config import GrailConfig
from optimum_grail.data.batches import CalibrationData
from optimum_grail.errors import ProcessError
from optimum_grail.processes.ranks import Ranks
from optimum_grail.report.environment import versions
from optimum_grail.widths.allocate import Widths


def check_request(ranks: Ranks, config: GrailConfig, parameters: int) -> None:
    """Refuse processes that were asked for different things.

    Args:
        ranks: the processes.
        config: resolved.
        parameters: of the model.

    Raises:
        ProcessError: configuration, model or versions differ; the message names what.
    """
    own = {**config.to_dict(), **versions(), "parameters of the model": parameters}
    described = {name: repr(value) for name, value in own.items()}
    first, *others = ranks.notes("the request", described)
    for index, other in enumerate(others, start=1):
        for name in {**first, **other}:
            if first.get(name) != other.get(name):
                raise ProcessError(
                    f"Process 0 has {name} = {first.get(name)} and process {index} has {other.get(name)}. Give all "
                    "processes the same command, model and versions."
                )


def check_same(ranks: Ranks, data: CalibrationData) -> None:
    """Refuse processes that have read different rows.

    Raises:
        ProcessError: the calibration data differs.
    """
    if len(set(ranks.notes("the calibration data", data.sha256))) > 1:
        raise ProcessError(
            "The processes have read different calibration data, although each reads all of it. Give all of them the "
            "same files, or name the revision of the data set."
        )


def agreed(ranks: Ranks, widths: Widths) -> Widths:
    """``widths``, after comparing them with those of the other processes.

    Raises:
        ProcessError: they differ.
    """
    kept = torch.tensor(list(widths.kept.values()), dtype=torch.int64)
    dropped = torch.tensor(list("\n".join(widths.dropped).encode()), dtype=torch.int64)
    pairs = {f"rotation pairs of {owner}": found for owner, found in widths.pairs.items()}
    ranks.agreed("the widths", {"kept units": kept, "dropped blocks": dropped, **pairs})
    return widths
