"""What each source gives to the calibration data: a mixture's samples shared out by weight."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optimum_grail.config.mixture import mixture_of
from optimum_grail.config.source import SELF, Reading, Source, Writing
from optimum_grail.data.request import DataRequest
from optimum_grail.data.rows import check_path
from optimum_grail.errors import DataError


@dataclass(frozen=True, eq=False)
class Part:
    """What one source gives.

    Args:
        dataset: what :func:`optimum_grail.data.rows.read_rows` reads, or ``"self"``.
        request: how many samples, and how they are read.
        name: what messages and reports call the source; ``""`` where it is the only one.
        weight: its weight in the mixture.
        writing: how the model writes these samples, where it does.
    """

    dataset: Any
    request: DataRequest
    name: str = ""
    weight: float = 1.0
    writing: Writing | None = None

    @property
    def own(self) -> bool:
        """Whether the model writes these samples itself."""
        return isinstance(self.dataset, str) and self.dataset == SELF


def parts_of(request: DataRequest) -> tuple[Part, ...]:
    """One part per source, in the order of ``Batch.source``.

    Raises:
        DataError: fewer samples than sources.
    """
    mixture = request.mixture
    if mixture is None:
        return (Part(SELF if request.own else request.dataset, request),)
    counts = shares([source.weight for source in mixture.sources], request.num_samples)
    if min(counts) == 0:
        raise DataError(
            f"num_samples={request.num_samples} is fewer than the {len(counts)} sources {mixture.spelled()}, and every "
            f"source gives at least one sample. Raise --num-samples to {len(counts)}, or name fewer sources."
        )
    return tuple(_part(request, source, count) for source, count in zip(mixture.sources, counts, strict=True))


def _part(request: DataRequest, source: Source, count: int) -> Part:
    fields: dict[str, Any] = {"num_samples": count}
    if isinstance(source.options, Reading):
        fields |= source.chosen
    writing = source.options if isinstance(source.options, Writing) else None
    return Part(source.name, dataclasses.replace(request, **fields), source.label, source.weight, writing)


def shares(weights: Sequence[float], total: int) -> list[int]:
    """``total`` divided by weight into whole numbers: largest remainders, the first of equal ones; at least 1 each
    where ``total`` suffices for that.

    Args:
        weights: positive.
        total: at least 0.
    """
    least = 1 if total >= len(weights) else 0
    exact = [weight / math.fsum(weights) * total for weight in weights]
    counts = [max(least, math.floor(value)) for value in exact]
    while sum(counts) < total:
        counts[max(range(len(counts)), key=lambda index: exact[index] - counts[index])] += 1
    while sum(counts) > total:  # what the small ones were raised to is taken from those that have most above their due
        counts[min((i for i in range(len(counts)) if counts[i] > least), key=lambda i: exact[i] - counts[i])] -= 1
    return counts


def check_sources(dataset: Any) -> None:
    """Refuse a source that reads like a local path and is none, before a model is loaded; live data passes.

    Raises:
        DataError: names the path.
        ConfigError: a wrong mixture.
    """
    mixture = mixture_of(dataset)
    if mixture is None:
        names = [dataset] if isinstance(dataset, str) else []
    else:
        names = [source.name for source in mixture.sources if isinstance(source.options, Reading)]
    for name in names:
        check_path(name)
